-- Targets of the continuous export.
create table export_sink (
    org_id                uuid        not null,
    id                    uuid        not null,
    name                  text        not null,
    storage_connection_id uuid        not null,
    -- Beginning of the names of all objects.
    prefix                text        not null,
    ndjson                boolean     not null,
    parquet               boolean     not null,
    paused                boolean     not null default false,
    version               bigint      not null default 1,
    creator_id            uuid        not null,
    created_at            timestamptz not null,
    updated_at            timestamptz not null,
    -- All entries before this index are stored.
    next_index            bigint      not null default 0,
    -- The part that is being written: its end, exclusive, and its folder. They are stored before its first
    -- object is written, so that a repetition after a crash has the same range and replaces the same objects.
    part_end              bigint,
    part_folder           text,
    -- Entries that the stored checkpoint covers.
    checkpoint_size       bigint      not null default 0,
    exported_at           timestamptz,
    failures              integer     not null default 0,
    last_error            text        not null default '',
    -- Time before which no attempt is made, after a failed one.
    next_attempt_at       timestamptz,
    -- Token of the replica that exports, and the end of its lease by the clock of the database.
    lease                 uuid,
    leased_until          timestamptz,
    primary key (org_id, id),
    check (ndjson or parquet),
    check ((part_end is null) = (part_folder is null)),
    check (part_end > next_index)
);
create unique index export_sink_prefix on export_sink (org_id, storage_connection_id, prefix);

-- Uses of storage connections that are registered at the project service, or that may be. A row without its sink
-- is left over from a creation that failed, or from a deletion; a job removes the registration and the row.
create table export_storage_use (
    org_id     uuid        not null,
    sink_id    uuid        not null,
    created_at timestamptz not null,
    primary key (org_id, sink_id)
);
