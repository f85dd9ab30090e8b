-- The key by which the names of actors and objects are searched. Written by the program, whose rules do not depend on
-- the locale of the database. The trigger fills it for rows of the former program.
alter table term_name add column name_key text collate "C";
update term_name set name_key = lower(normalize(name, nfkc));
alter table term_name alter column name_key set not null;

create function term_name_key() returns trigger language plpgsql set search_path from current as $$
begin
    new.name_key := coalesce(new.name_key, lower(normalize(new.name, nfkc)));
    return new;
end $$;
create trigger name_key before insert on term_name for each row execute function term_name_key();
