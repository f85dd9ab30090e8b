-- Privileges of the role of the audit service: append and read. The statements run at every start, with
-- this schema as the search path, after all privileges were granted to the role. A table that is missing
-- here stays writable, so a test compares the privileges with a list.
revoke all on tree, retention, tile, producer, term, term_name, person, person_interim_key, person_address,
    person_erased, entry, checkpoint, cosigned, quarantine, signing_stop, signer, signer_replica,
    fsck_run from tenantry_audit;

-- Entries are accessed through the parent table only, so the role has no privileges on partitions.
do $$
declare
    month regclass;
begin
    for month in select inhrelid from pg_inherits where inhparent = 'entry'::regclass loop
        execute format('revoke all on %s from tenantry_audit', month);
    end loop;
end $$;

grant select on retention, person_erased to tenantry_audit;
grant select, insert on entry, tile, checkpoint, cosigned, producer, term, term_name, person, person_interim_key,
    person_address to tenantry_audit;
-- Keys of people are sealed again after a rotation of the secret key.
grant update (sealed) on person, person_interim_key to tenantry_audit;
grant update (note) on cosigned to tenantry_audit;
grant update (sequence) on producer to tenantry_audit;
grant update (entries) on term to tenantry_audit;
-- Size and checkpoint of a tree change with each append, `purged_before` only through `mark_purged`.
grant select on tree to tenantry_audit;
grant insert (org_id, held) on tree to tenantry_audit;
grant update (size, edge, signed, note, signed_at, suite_index, plan, held) on tree to tenantry_audit;

-- State of the signers and of checks, which is not part of the log. Neither are the sinks of the continuous export
-- (`export_sink`, `export_storage_use`), of which the role keeps all privileges.
grant select, insert, delete on quarantine, signing_stop to tenantry_audit;
grant select, insert, update, delete on signer_replica, fsck_run to tenantry_audit;
grant select, update (holder, token) on signer to tenantry_audit;

-- Partitions, retention and erasure use functions that run as the owner. Helpers of these are revoked, too.
revoke all on function open_month(date), drop_month(date), mark_purged(integer, timestamptz),
    delete_purged(integer, integer), forget_person(uuid, timestamptz), forget_erased(), delete_replaced_checkpoints(),
    append_only(text), guard_entries(text), make_month(text, date), attach_month(text, date) from public, tenantry_audit;
grant execute on function open_month(date), drop_month(date), mark_purged(integer, timestamptz),
    delete_purged(integer, integer), forget_person(uuid, timestamptz), forget_erased(), delete_replaced_checkpoints()
    to tenantry_audit;
