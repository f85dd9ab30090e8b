-- Numbers of members and projects, which each change of the organization reads. Kept by triggers, so that a change
-- does not count rows. A statement that inserts or deletes many rows updates the organization once.
alter table organization add column member_count bigint not null default 0;
alter table organization add column project_count bigint not null default 0;

-- Argument: the column that counts.
create function count_rows() returns trigger language plpgsql set search_path from current as $$
declare
    sign integer := case when tg_op = 'INSERT' then 1 else -1 end;
begin
    if tg_argv[0] = 'member_count' then
        update organization set member_count = member_count + sign * changed.number
        from (select org_id, count(*) as number from changed_row group by org_id) as changed
        where organization.id = changed.org_id;
    else
        update organization set project_count = project_count + sign * changed.number
        from (select org_id, count(*) as number from changed_row group by org_id) as changed
        where organization.id = changed.org_id;
    end if;
    return null;
end $$;

create trigger count_inserted after insert on member referencing new table as changed_row
    for each statement execute function count_rows('member_count');
create trigger count_deleted after delete on member referencing old table as changed_row
    for each statement execute function count_rows('member_count');
create trigger count_inserted after insert on project referencing new table as changed_row
    for each statement execute function count_rows('project_count');
create trigger count_deleted after delete on project referencing old table as changed_row
    for each statement execute function count_rows('project_count');

update organization set
    member_count = (select count(*) from member where org_id = organization.id),
    project_count = (select count(*) from project where org_id = organization.id);
