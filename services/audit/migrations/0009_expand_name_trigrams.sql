-- Trigrams of the names of actors and objects, for the text filter: an array index finds the few names that
-- have all trigrams of a text. They are not those of pg_trgm, which recognizes letters by the locale of the
-- database (with the locale C only those of ASCII), and does not separate trees.
alter table term_name add column tree integer;
update term_name set tree = term.tree from term where term.number = term_name.term;
alter table term_name alter column tree set not null;

-- Returns the trigrams of a name, each after the number of its tree (`17:ann`). The number alone (`17:`) finds
-- all names of the tree, for texts of one or two characters.
create function name_trigrams(tree integer, name_key text) returns text[]
    language sql immutable strict parallel safe
begin atomic
    select array(select tree || ':' || substr(name_key, place, 3)
                 from generate_series(1, length(name_key) - 2) as place) || (tree || ':');
end;

-- A search reads all names that are not merged into the index yet, so they are few.
create index term_name_trigrams on term_name using gin (name_trigrams(tree, name_key))
    with (gin_pending_list_limit = 256);

-- Fills in what former programs do not write.
create or replace function term_name_key() returns trigger language plpgsql set search_path from current as $$
begin
    new.name_key := coalesce(new.name_key, lower(normalize(new.name, nfkc)));
    new.tree := coalesce(new.tree, (select term.tree from term where term.number = new.term));
    return new;
end $$;
drop trigger name_key on term_name;
create trigger name_key before insert on term_name
    for each row when (new.name_key is null or new.tree is null) execute function term_name_key();
