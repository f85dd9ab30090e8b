-- Events on which this service failed, and the later ones of the same group, which wait for their turn.
create table deferred_event (
    -- The order within a group.
    number     bigint      generated always as identity primary key,
    event_id   uuid        not null unique,
    -- The organization, or the account of an event that belongs to none.
    group_id   uuid        not null,
    source     text        not null,
    type       text        not null,
    org_id     uuid,
    envelope   bytea       not null,
    attempts   integer     not null default 0,
    due_at     timestamptz not null,
    last_error text        not null default ''
);
create index deferred_event_group on deferred_event (group_id, number);

-- The PostgreSQL cluster that gave the transaction numbers in `outbox` and `outbox_cursor`.
create table home_cluster (
    only_row          boolean primary key default true check (only_row),
    system_identifier bigint  not null
);
