-- Logs whose stored tree is damaged. Their events wait, nothing of them is read or signed, and all other logs
-- are not affected. `tenantry audit fsck --release` deletes the row of a tree that it finds intact.
create table quarantine (
    org_id uuid        primary key,
    -- A code of `integrity::Damage`.
    cause  text        not null,
    detail text        not null,
    since  timestamptz not null
);

-- Stop of all signing under a name of the log, after two signed heads that do not follow each other, or damage
-- of the suite tree.
create table signing_stop (
    log_name text        primary key,
    -- The tree in which the contradiction was found.
    org_id   uuid        not null,
    detail   text        not null,
    since    timestamptz not null
);

-- The one replica that signs. `token` is a fencing token: it grows with each change of the holder, and the
-- transactions that store checkpoints lock this row and compare holder and token.
create table signer (
    one_row boolean primary key default true check (one_row),
    holder  uuid,
    token   bigint  not null default 0
);
insert into signer default values;

-- Running replicas. Each confirms a fencing token after it has compared the stored suite tree with its own
-- journal; the holder signs after all of them have.
create table signer_replica (
    id        uuid        primary key,
    confirmed bigint      not null,
    seen_at   timestamptz not null
);
