-- The service works as a role that appends and reads (privileges.sql). What takes more is done by functions
-- that run as the owner; and a purge deletes small batches instead of rewriting a month, so that it needs no
-- lock that readers or ingestion hold.

-- What is before this index was deleted. `purged_before` runs ahead of it.
alter table tree add column deleted_before bigint not null default 0;
update tree set deleted_before = purged_before;
create index tree_undeleted on tree (number) where deleted_before < purged_before;

drop function purge_month(date, integer[]);

-- AU-3: an entry changes never, and goes only after its log has said that it was purged.
create function refuse_unpurged_change() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' and old.index < (select purged_before from tree where number = old.tree) then
        return old;
    end if;
    raise exception 'the audit log is append-only';
end $$;

create function guard_entries(name text) returns void language plpgsql as $$
begin
    execute format('create trigger append_only before update or delete on %I
                    for each row execute function refuse_unpurged_change()', name);
    execute format('create trigger no_truncate before truncate on %I
                    for each statement execute function refuse_change()', name);
    execute format('alter table %I enable always trigger append_only', name);
    execute format('alter table %I enable always trigger no_truncate', name);
end $$;

create or replace function make_month(name text, month date) returns void language plpgsql as $$
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
    perform guard_entries(name);
end $$;

do $$
declare
    month text;
begin
    for month in select relname from pg_inherits join pg_class on pg_class.oid = inhrelid
                 where inhparent = 'entry'::regclass loop
        execute format('drop trigger append_only on %I', month);
        execute format('drop trigger no_truncate on %I', month);
        perform guard_entries(month);
    end loop;
end $$;

-- Marks the entries that a log received before a moment as purged, unless the log is held; answers which
-- they are. Only the row of the tree is locked.
create function mark_purged(of_tree integer, before timestamptz, out first_index bigint, out last_index bigint)
    returns setof record language plpgsql as $$
begin
    select purged_before into first_index from tree where number = of_tree and not held for update;
    last_index := index_at(of_tree, before) - 1;
    if last_index >= first_index then
        update tree set purged_before = last_index + 1 where number = of_tree;
        return next;
    end if;
end $$;

-- Deletes the next purged entries of a log, as many at most; answers whether there are more.
create function delete_purged(of_tree integer, at_most integer) returns boolean language plpgsql as $$
declare
    low  bigint;
    high bigint;
    last bigint;
begin
    select deleted_before, least(deleted_before + at_most, purged_before), purged_before into low, high, last
    from tree where number = of_tree for update;
    delete from entry where tree = of_tree and index >= low and index < high;
    update tree set deleted_before = high where number = of_tree;
    return high < last;
end $$;

-- Drops the partition of a month without entries; answers whether it did. Everybody waits for this lock, so
-- it is tried for a moment only.
create function drop_month(month date) returns boolean language plpgsql set lock_timeout = '100ms' as $$
declare
    name text := 'entry_' || to_char(month, 'YYYY_MM');
    has_rows boolean;
begin
    execute format('select exists (select from %I)', name) into has_rows;
    if has_rows then
        return false;
    end if;
    lock table entry in access exclusive mode;
    execute format('select exists (select from %I)', name) into has_rows;
    if not has_rows then
        execute format('drop table %I', name);
    end if;
    return not has_rows;
exception when lock_not_available then
    return false;
end $$;

-- Destroys the keys of an account and of its addresses, and its names; answers how many keys.
create function forget_person(account_id uuid, at timestamptz) returns bigint language plpgsql as $$
declare
    ids   uuid[];
    count bigint;
begin
    insert into person_erased (id, erased_at) values (account_id, at) on conflict do nothing;
    ids := account_id || array(select address from person_address where account = account_id);
    delete from term_name where person = any (ids);
    delete from person where id = any (ids);
    get diagnostics count = row_count;
    delete from person_address where account = account_id;
    return count;
end $$;

-- Destroys keys that somebody made for a person while that person was erased.
create function forget_erased() returns void language sql as $$
    delete from person where id in (select id from person_erased);
$$;

-- These run as the owner, whoever calls them, and find nothing but this schema; privileges.sql says who may.
do $$
declare
    it regprocedure;
begin
    foreach it in array '{open_month(date), drop_month(date), "mark_purged(integer, timestamptz)",
                          "delete_purged(integer, integer)", "forget_person(uuid, timestamptz)",
                          forget_erased()}'::regprocedure[] loop
        execute format('alter function %s security definer set search_path = %I, pg_temp', it, current_schema());
    end loop;
    foreach it in array '{refuse_change(), refuse_unpurged_change()}'::regprocedure[] loop
        execute format('alter function %s set search_path = %I, pg_temp', it, current_schema());
    end loop;
end $$;
