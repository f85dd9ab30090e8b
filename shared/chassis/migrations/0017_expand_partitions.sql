-- Tables that grow with time are partitioned by the time in their identifiers (UUIDv7, the first column of the
-- primary key), so that old rows are deleted by dropping a table. `<table>_initial` has the rows of the time
-- before the first other partition, `<table>_default` rows that belong to no partition. The functions that
-- change partitions run as the owner, because the roles of services own no table.

-- Returns the lowest identifier of a time (RFC 9562, 5.7).
create function lowest_id(at timestamptz) returns uuid language sql stable as $$
    select (lpad(to_hex(floor(extract(epoch from at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- Returns the column by which a table of this schema is partitioned; null unless that is an identifier.
create function partition_key(parent text) returns text language sql stable as $$
    select attname::text from pg_partitioned_table
    join pg_attribute on attrelid = partrelid and attnum = partattrs[0]
    where partrelid = to_regclass(quote_ident(parent)) and partstrat = 'r' and atttypid = 'uuid'::regtype
$$;

-- Returns the partitions of a table with the identifiers at which they end; that of `<table>_default` is null.
create function partitions(parent text) returns table (name regclass, upper uuid) language sql stable as $$
    select pg_class.oid::regclass,
           substring(pg_get_expr(relpartbound, pg_class.oid) from 'TO \(''([0-9a-f-]{36})''\)')::uuid
    from pg_inherits join pg_class on pg_class.oid = inhrelid
    where inhparent = to_regclass(quote_ident(parent)) and partition_key(parent) is not null
$$;

-- Returns the identifier at which the last partition of a table ends.
create function partition_end(parent text) returns uuid language sql stable as $$
    select upper from partitions(parent) where upper is not null order by upper desc limit 1
$$;

-- Partitions a table. Its rows become the partition `<table>_initial`, which ends 35 days from now; they are
-- read once, and not copied.
create function partition_table(parent text) returns void language plpgsql as $$
declare
    initial     text := parent || '_initial';
    key         text;
    upper       uuid := lowest_id(now() + interval '35 days');
    last        uuid;
    primary_key text;
    definitions text[];
    definition  text;
    name        text;
begin
    select pg_get_constraintdef(pg_constraint.oid), attname into primary_key, key
    from pg_constraint join pg_attribute on attrelid = conrelid and attnum = conkey[1]
    where conrelid = to_regclass(quote_ident(parent)) and contype = 'p';
    select array_agg(pg_get_indexdef(indexrelid)) into definitions
    from pg_index where indrelid = to_regclass(quote_ident(parent)) and not indisprimary;
    select coalesce(definitions, '{}') || coalesce(array_agg(
        format('alter table %I add constraint %I %s', parent, conname, pg_get_constraintdef(oid))), '{}')
    into definitions from pg_constraint where conrelid = to_regclass(quote_ident(parent)) and contype = 'f';
    for name in select relname from pg_index join pg_class on pg_class.oid = indexrelid
                where indrelid = to_regclass(quote_ident(parent)) loop
        execute format('alter index %I rename to %I', name, replace(name, parent, initial));
    end loop;
    execute format('alter table %I rename to %I', parent, initial);
    execute format('create table %I (like %I including defaults including constraints including storage)
                    partition by range (%I)', parent, initial, key);
    execute format('alter table %I add %s', parent, primary_key);
    foreach definition in array definitions loop
        execute definition;
    end loop;
    -- Identifiers of a clock that is ahead.
    execute format('select %I from %I order by 1 desc limit 1', key, initial) into last;
    if last >= upper then
        upper := lowest_id(to_timestamp(('x' || left(replace(last::text, '-', ''), 12))::bit(48)::bigint / 1000.0)
                           + interval '1 day');
    end if;
    execute format('alter table %I attach partition %I for values from (minvalue) to (%L)', parent, initial, upper);
    execute format('create table %I partition of %I default', parent || '_default', parent);
end $$;

-- Adds a partition for the identifiers from `lower` until `upper`; returns false if it exists, or if rows of
-- `<table>_default` have these identifiers.
create function create_partition(parent text, partition text, lower uuid, upper uuid) returns boolean
language plpgsql set lock_timeout = '2s' as $$
declare
    key      text := partition_key(parent);
    has_rows boolean;
begin
    -- One at a time, and not while privileges are granted.
    perform pg_advisory_xact_lock(hashtext(current_schema()), 3);
    if key is null or to_regclass(quote_ident(partition)) is not null then
        return false;
    end if;
    execute format('select exists (select from %I where %I >= $1 and %I < $2)', parent || '_default', key, key)
        into has_rows using lower, upper;
    if has_rows then
        return false;
    end if;
    -- Attached instead of created as a partition: that would wait for every query of the table.
    execute format('create table %I (like %I including defaults including constraints including storage)',
                   partition, parent);
    execute format('alter table %I attach partition %I for values from (%L) to (%L)',
                   parent, partition, lower, upper);
    return true;
end $$;

-- Drops the oldest partition of a table that ends at `upper_max` or before, unless it has a row whose
-- `age_column` is `since` or later; returns false if there is none. Every query of the table waits for this
-- lock, so it is tried for a moment only.
create function drop_partition(parent text, upper_max uuid, age_column text, since timestamptz) returns boolean
language plpgsql set lock_timeout = '300ms' as $$
declare
    oldest  regclass;
    is_used boolean;
begin
    for oldest in select name from partitions(parent) where upper <= upper_max order by upper loop
        is_used := false;
        if age_column is not null then
            execute format('select exists (select from %s where %I >= $1)', oldest, age_column)
                into is_used using since;
        end if;
        if not is_used then
            execute format('drop table %s', oldest);
            return true;
        end if;
    end loop;
    return false;
exception when lock_not_available then
    return false;
end $$;

-- Deletes rows of `<table>_initial` and `<table>_default` with identifiers below `before`, whose `age_column`
-- is before `since`; returns their number, at most `at_most` from each.
create function delete_unpartitioned(parent text, before uuid, age_column text, since timestamptz, at_most bigint)
returns bigint language plpgsql as $$
declare
    key     text := partition_key(parent);
    name    regclass;
    deleted bigint;
    total   bigint := 0;
begin
    for name in select it.name from partitions(parent) as it
                where it.name in (to_regclass(quote_ident(parent || '_initial')),
                                  to_regclass(quote_ident(parent || '_default'))) loop
        execute format('delete from only %s where ctid = any (array(
                            select ctid from only %s where %I < $1 and %s order by %I limit $3))',
                       name, name, key,
                       case when age_column is null then 'true' else format('%I < $2', age_column) end, key)
            using before, since, at_most;
        get diagnostics deleted = row_count;
        total := total + deleted;
    end loop;
    return total;
end $$;

do $$
declare
    it regprocedure;
begin
    foreach it in array '{"create_partition(text, text, uuid, uuid)",
                          "drop_partition(text, uuid, text, timestamptz)",
                          "delete_unpartitioned(text, uuid, text, timestamptz, bigint)"}'::regprocedure[] loop
        execute format('alter function %s security definer set search_path = %I, pg_temp', it, current_schema());
    end loop;
    foreach it in array '{lowest_id(timestamptz), partition_key(text), partitions(text), partition_end(text),
                          partition_table(text)}'::regprocedure[] loop
        execute format('alter function %s set search_path = %I, pg_temp', it, current_schema());
    end loop;
    -- Not a function of services.
    revoke all on function partition_table(text) from public;
end $$;

select partition_table('inbox');
