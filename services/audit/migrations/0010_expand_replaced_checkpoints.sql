-- Deletes the cosigned checkpoints that a larger one has replaced, and never the newest one.
create function delete_replaced_checkpoints() returns void language sql security definer
    set search_path from current
begin atomic
    delete from cosigned where size < (select max(size) from cosigned);
end;
