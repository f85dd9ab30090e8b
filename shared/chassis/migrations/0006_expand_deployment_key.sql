-- Secret keys with which values of this schema are encrypted. A check value is derived from the key and does
-- not reveal it. Its first four bytes are the id of the key.
create table deployment_key (
    check_value bytea       primary key,
    created_at  timestamptz not null default clock_timestamp()
);
