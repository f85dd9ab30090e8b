-- Keys under which personal fields of a person are sealed while the row of the person in `person` cannot be
-- decrypted. They stay after its repair, because they open the entries of that time. Erasing a person deletes
-- the rows.
create table person_interim_key (
    person uuid  not null,
    sealed bytea not null,
    primary key (person, sealed)
);

create or replace function forget_person(account_id uuid, at timestamptz) returns bigint language plpgsql as $$
declare
    ids   uuid[];
    count bigint;
begin
    insert into person_erased (id, erased_at) values (account_id, at) on conflict do nothing;
    ids := account_id || array(select address from person_address where account = account_id);
    delete from term_name where person = any (ids);
    delete from person_interim_key where person = any (ids);
    delete from person where id = any (ids);
    get diagnostics count = row_count;
    delete from person_address where account = account_id;
    return count;
end $$;

create or replace function forget_erased() returns void language sql as $$
    delete from person_interim_key where person in (select id from person_erased);
    delete from person where id in (select id from person_erased);
$$;

-- A replaced function has no settings: these run as the owner again, and find nothing but this schema.
do $$
declare
    it regprocedure;
begin
    foreach it in array '{"forget_person(uuid, timestamptz)", forget_erased()}'::regprocedure[] loop
        execute format('alter function %s security definer set search_path = %I, pg_temp', it, current_schema());
    end loop;
end $$;
