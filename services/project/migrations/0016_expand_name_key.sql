-- The keys by which projects are ordered by name, and found by name, slug and description. Written by the program, whose rules do not depend on
-- the locale of the database. The trigger fills them for rows of the former program.
alter table project add column name_key text collate "C";
alter table project add column search_key text collate "C";
update project set name_key = lower(normalize(name, nfkc)),
                   search_key = lower(normalize(name || ' ' || slug || ' ' || description, nfkc));
alter table project alter column name_key set not null;
alter table project alter column search_key set not null;

create function project_keys() returns trigger language plpgsql set search_path from current as $$
begin
    if tg_op = 'INSERT' then
        new.name_key := coalesce(new.name_key, lower(normalize(new.name, nfkc)));
        new.search_key := coalesce(new.search_key,
            lower(normalize(new.name || ' ' || new.slug || ' ' || new.description, nfkc)));
    elsif (new.name <> old.name or new.description <> old.description) and new.search_key = old.search_key then
        new.name_key := lower(normalize(new.name, nfkc));
        new.search_key := lower(normalize(new.name || ' ' || new.slug || ' ' || new.description, nfkc));
    end if;
    return new;
end $$;
create trigger keys before insert or update on project for each row execute function project_keys();
create index project_name_key on project (org_id, name_key, id);
