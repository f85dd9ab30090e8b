-- The log in its lasting form. What the first form held is read again from the outboxes, which have kept
-- every event so far; checkpoints of before are void.
drop table checkpoint, node, entry, tree;
delete from outbox_cursor;

-- One Merkle tree (RFC 6962) per organization; the nil UUID is the tree of events without one, the highest
-- UUID the suite's own, whose leaves are checkpoints. The row is the lock under which a tree grows.
create table tree (
    number         integer     generated always as identity primary key,
    org_id         uuid        not null unique,
    size           bigint      not null default 0,
    -- Hashes at the right edge that do not fill a tile yet, level by level.
    edge           bytea       not null default '',
    -- How far the tree is signed, and the newest note that says so.
    signed         bigint      not null default 0,
    note           text        not null default '',
    signed_at      timestamptz,
    -- The place of that note in the suite's tree.
    suite_index    bigint,
    -- The organization's plan, which says for how long entries are shown.
    plan           text        not null default '',
    -- Nothing is purged while the log is held.
    held           boolean     not null default false,
    -- What is before this index was purged.
    purged_before  bigint      not null default 0
);
create index tree_unsigned on tree (number) where signed < size;

-- AU-9: for how many days entries are shown, by plan. No row means for ever.
create table retention (
    plan text    primary key,
    days integer not null check (days > 0)
);
insert into retention (plan, days) values ('free', 7), ('starter', 7), ('pro', 30), ('agency', 365);

-- Complete tiles: sixteen hashes side by side, at the levels 0, 4, 8, … of a tree.
create table tile (
    tree   integer  not null references tree,
    level  smallint not null,
    index  bigint   not null,
    hashes bytea    not null,
    primary key (tree, level, index)
);

-- How far the log has each service's numbers in each organization: no gap, and nothing twice.
create table producer (
    tree     integer not null references tree,
    source   text    not null,
    sequence bigint  not null,
    primary key (tree, source)
);

-- What entries are found by: an actor, an object, a project, an action, …, once per tree. The number of
-- entries tells which of several is the quickest to follow.
create table term (
    number  integer  generated always as identity primary key,
    tree    integer  not null references tree,
    kind    smallint not null,
    value   text     collate "C" not null,
    entries bigint   not null,
    unique (tree, kind, value)
);
-- Every log in which an account occurs.
create index term_value on term (value) where kind in (1, 2);

-- The names that actors and objects had, for search. Gone when the person is erased.
create table term_name (
    term integer not null references term,
    name text    not null,
    -- Whose personal data the name is.
    person uuid,
    primary key (term, name)
);
create index term_name_person on term_name (person) where person is not null;

-- Keys under which personal fields are sealed, each itself sealed under the deployment's key. Erasing a
-- person deletes the row.
create table person (
    id     uuid  primary key,
    sealed bytea not null
);

-- The addresses that belong to accounts: whoever erases an account erases these, too. Addresses are here as
-- keyed hashes.
create table person_address (
    account uuid not null,
    address uuid not null,
    primary key (account, address)
);

-- Persons that were erased: nothing of them is sealed under a new key.
create table person_erased (
    id        uuid        primary key,
    erased_at timestamptz not null
);

-- Entries, in partitions by the month in which they were received. The hash of an entry is in its tile and
-- stays; the entry goes when nobody may see it any more.
create table entry (
    tree        integer     not null,
    actor       integer     not null,
    resource    integer     not null,
    -- The kind of the object.
    type        integer     not null,
    project     integer,
    environment integer,
    action      integer     not null,
    index       bigint      not null,
    received_at timestamptz not null,
    event_id    uuid        not null,
    outcome     smallint    not null,
    flags       smallint    not null,
    -- The exact bytes of the leaf.
    leaf        bytea       not null
) partition by range (received_at);

-- Heads that were signed, and heartbeats: the leaves of the suite's tree.
create table checkpoint (
    index     bigint      primary key,
    -- Null for a heartbeat.
    tree      integer     references tree,
    size      bigint      not null,
    leaf      text        not null,
    signed_at timestamptz not null
);
create index checkpoint_tree on checkpoint (tree, size);

-- Heads of the suite's tree with the signatures of witnesses.
create table cosigned (
    size      bigint      primary key,
    note      text        not null,
    signed_at timestamptz not null
);

create function append_only(name text) returns void language plpgsql as $$
begin
    -- ENABLE ALWAYS, because a plain trigger is skipped by session_replication_role = replica. A superuser
    -- can still drop them; the proofs show what they did.
    execute format('create trigger append_only before update or delete on %I
                    for each row execute function refuse_change()', name);
    execute format('create trigger no_truncate before truncate on %I
                    for each statement execute function refuse_change()', name);
    execute format('alter table %I enable always trigger append_only', name);
    execute format('alter table %I enable always trigger no_truncate', name);
end $$;

select append_only('tile'), append_only('checkpoint');

-- Makes a table for the entries of a month. Its indexes are its own: the number of an entry is unique
-- because the tree's row is locked, not because an index says so across months.
create function make_month(name text, month date) returns void language plpgsql as $$
begin
    execute format('create table %I (like entry)', name);
    begin
        execute format('alter table %I alter leaf set compression lz4', name);
    exception when feature_not_supported then
        null; -- This PostgreSQL was built without it; its own compression does, too.
    end;
    -- Short entries are compressed, too: an envelope says many things twice.
    execute format('alter table %I set (toast_tuple_target = 256)', name);
    -- So that attaching it need not look at every row.
    execute format('alter table %I add constraint of_month check (received_at >= %L and received_at < %L)',
                   name, month::timestamp at time zone 'UTC',
                   (month + interval '1 month')::timestamp at time zone 'UTC');
    execute format('create unique index on %I (tree, index)', name);
    execute format('create index on %I (event_id)', name);
    execute format('create index on %I (actor, index)', name);
    execute format('create index on %I (resource, index)', name);
    execute format('create index on %I (project, index) where project is not null', name);
    execute format('create index on %I (action, index)', name);
    perform append_only(name);
end $$;

create function attach_month(name text, month date) returns void language plpgsql as $$
begin
    execute format('alter table entry attach partition %I for values from (%L) to (%L)', name,
                   month::timestamp at time zone 'UTC',
                   (month + interval '1 month')::timestamp at time zone 'UTC');
end $$;

-- Makes the partition of a month, if there is none.
create function open_month(month date) returns void language plpgsql as $$
declare
    name text := 'entry_' || to_char(month, 'YYYY_MM');
begin
    perform pg_advisory_xact_lock(hashtext(current_schema()), 3);
    if to_regclass(name) is null then
        perform make_month(name, month);
        perform attach_month(name, month);
    end if;
end $$;

-- Rewrites the partition of a past month without the entries of these trees. Nothing is written to it any
-- more, so readers wait for the exchange only, not for the copy.
create function purge_month(month date, trees integer[]) returns void language plpgsql as $$
declare
    name text := 'entry_' || to_char(month, 'YYYY_MM');
    kept text := name || '_kept';
begin
    perform pg_advisory_xact_lock(hashtext(current_schema()), 3);
    perform make_month(kept, month);
    execute format('insert into %I select * from %I where tree <> all ($1)', kept, name) using trees;
    execute format('alter table entry detach partition %I', name);
    execute format('drop table %I', name);
    execute format('alter table %I rename to %I', kept, name);
    perform attach_month(name, month);
end $$;

-- The first entry of a tree that was received at this moment or later: entries are in the order of their
-- arrival. Entries that were purged are older than any moment that is asked for.
create function index_at(of_tree integer, moment timestamptz) returns bigint language plpgsql stable as $$
declare
    low  bigint;
    high bigint;
    mid  bigint;
    at   timestamptz;
begin
    select purged_before, size into low, high from tree where number = of_tree;
    -- Most logs are younger than what is asked for.
    select received_at into at from entry where tree = of_tree and index = low;
    if at >= moment then
        return low;
    end if;
    while low < high loop
        mid := (low + high) / 2;
        select received_at into at from entry where tree = of_tree and index = mid;
        if at is null or at < moment then
            low := mid + 1;
        else
            high := mid;
        end if;
    end loop;
    return low;
end $$;

-- The months that have a partition.
create function months() returns setof date language sql stable
begin atomic
    select to_date(right(relname, 7), 'YYYY_MM') from pg_inherits join pg_class on pg_class.oid = inhrelid
    where inhparent = 'entry'::regclass;
end;
