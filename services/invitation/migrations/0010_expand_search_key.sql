-- The key by which invitations are found: the address. Written by the program, whose rules do not depend on the
-- locale of the database. The trigger fills it for rows of the former program.
alter table invitation add column search_key text collate "C";
update invitation set search_key = lower(normalize(email, nfkc));
alter table invitation alter column search_key set not null;

create function invitation_search_key() returns trigger language plpgsql set search_path from current as $$
begin
    if tg_op = 'INSERT' then
        new.search_key := coalesce(new.search_key, lower(normalize(new.email, nfkc)));
    elsif new.email <> old.email and new.search_key = old.search_key then
        new.search_key := lower(normalize(new.email, nfkc));
    end if;
    return new;
end $$;
create trigger search_key before insert or update on invitation for each row execute function invitation_search_key();
