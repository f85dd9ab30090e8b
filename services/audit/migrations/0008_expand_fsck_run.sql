-- Checks of the whole log, which one replica at a time runs in the background. The newest ones are kept.
create table fsck_run (
    id          uuid        primary key,
    started_at  timestamptz not null,
    -- Updated while the check runs. A check whose replica has stopped is ended by the next one.
    seen_at     timestamptz not null,
    ended_at    timestamptz,
    trees       bigint      not null default 0,
    entries     bigint      not null default 0,
    checkpoints bigint      not null default 0,
    -- Number of differences and unreadable keys, and the first of them, one sentence each.
    finding_count bigint    not null default 0,
    findings    text[]      not null default '{}',
    -- Cause for which the check did not complete; empty if it did.
    error       text        not null default ''
);
-- At most one check runs.
create unique index fsck_run_running on fsck_run ((true)) where ended_at is null;
