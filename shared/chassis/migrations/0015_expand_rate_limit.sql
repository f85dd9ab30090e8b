-- Rate limits of all replicas together. Not logged: a crash of the server only admits more calls for a minute.
create unlogged table rate_limit (
    -- SHA-256 of the name of the limit and its key.
    key   bytea       primary key check (length(key) = 32),
    -- Failures in a row; 0 for a limit of calls.
    count integer     not null check (count >= 0),
    -- Theoretical arrival time of the next call (GCRA), or the end of the period in which failures are counted.
    until timestamptz not null
);
