-- One Merkle tree (RFC 6962) per organization; the nil UUID is the tree of events without one. The row is
-- the lock under which the tree grows.
create table tree (
    org_id uuid   primary key,
    size   bigint not null
);

-- A leaf: the exact bytes that were received, and what lists need to find it.
create table entry (
    org_id      uuid        not null references tree,
    index       bigint      not null,
    -- An event that comes twice is one entry.
    event_id    uuid        not null constraint entry_event unique,
    leaf        bytea       not null,
    leaf_hash   bytea       not null,
    event_type  text        not null,
    project_id  uuid,
    actor_id    text        not null,
    received_at timestamptz not null,
    primary key (org_id, index)
);
create index entry_project on entry (org_id, project_id, index) where project_id is not null;
create index entry_actor on entry (org_id, actor_id, index);

-- Roots of complete subtrees: node (level, index) covers the leaves index * 2^level and on.
create table node (
    org_id uuid     not null references tree,
    level  smallint not null,
    index  bigint   not null,
    hash   bytea    not null,
    primary key (org_id, level, index)
);

-- Signed heads. Written after the state that they describe has been committed.
create table checkpoint (
    org_id    uuid        not null references tree,
    size      bigint      not null,
    note      text        not null,
    signed_at timestamptz not null,
    primary key (org_id, size)
);

-- AU-3: no row of the log changes or goes. ENABLE ALWAYS, because a plain trigger is skipped by
-- session_replication_role = replica. A superuser can still drop them; the proofs show what they did.
create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'the audit log is append-only';
end $$;

create trigger entry_append_only before update or delete on entry
    for each row execute function refuse_change();
create trigger entry_no_truncate before truncate on entry
    for each statement execute function refuse_change();
create trigger node_append_only before update or delete on node
    for each row execute function refuse_change();
create trigger node_no_truncate before truncate on node
    for each statement execute function refuse_change();
create trigger checkpoint_append_only before update or delete on checkpoint
    for each row execute function refuse_change();
create trigger checkpoint_no_truncate before truncate on checkpoint
    for each statement execute function refuse_change();
alter table entry enable always trigger entry_append_only;
alter table entry enable always trigger entry_no_truncate;
alter table node enable always trigger node_append_only;
alter table node enable always trigger node_no_truncate;
alter table checkpoint enable always trigger checkpoint_append_only;
alter table checkpoint enable always trigger checkpoint_no_truncate;
