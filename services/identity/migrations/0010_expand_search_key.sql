-- The key by which people are found: display name and address. Written by the program, whose rules do not depend
-- on the locale of the database. The trigger fills it for rows of the former program.
alter table account add column search_key text collate "C";
update account set search_key = lower(normalize(display_name || ' ' || email, nfkc));
alter table account alter column search_key set not null;

create function account_search_key() returns trigger language plpgsql set search_path from current as $$
begin
    if tg_op = 'INSERT' then
        new.search_key := coalesce(new.search_key, lower(normalize(new.display_name || ' ' || new.email, nfkc)));
    elsif (new.display_name <> old.display_name or new.email <> old.email) and new.search_key = old.search_key then
        new.search_key := lower(normalize(new.display_name || ' ' || new.email, nfkc));
    end if;
    return new;
end $$;
create trigger search_key before insert or update on account for each row execute function account_search_key();
