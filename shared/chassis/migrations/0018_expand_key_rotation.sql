-- Rotation of the secret key. A start needs every key that is not retired.
alter table deployment_key
    -- Time from which no value of this schema needs the key. Rows stay: the oldest one is the original key.
    add column retired_at timestamptz,
    -- Time of the last sign of a process whose current key this is.
    add column used_at    timestamptz;

-- Processes that use this schema, with their current key. A process that ended without a drain leaves a row,
-- which is ignored after two minutes.
create table key_user (
    process_id  uuid        primary key,
    check_value bytea       not null,
    seen_at     timestamptz not null
);

-- Keys that were derived from former secret keys, for data that depends on their value for ever. Sealed under
-- the current secret key.
create table retained_key (
    purpose     text        not null,
    -- Check value of the former secret key.
    check_value bytea       not null,
    sealed      bytea       not null,
    created_at  timestamptz not null default clock_timestamp(),
    primary key (purpose, check_value)
);
