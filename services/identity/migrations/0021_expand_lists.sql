-- Order of lists, so that a page is a range of an index at each place of the list.
create index member_list on member (org_id, id);
create index member_of_user on member (user_id, org_id);
drop index member_user;
create index team_member_list on team_member (org_id, team_id, id);
create index project_grant_list on project_grant (org_id, project_id, id);
create index session_list on session (user_id, id) where revoked_at is null;
drop index session_open;
create index api_key_of_project on api_key (org_id, project_id, id) where project_id is not null;

-- Number of members of each team, which lists of teams show. Kept by triggers, like the counts of
-- organizations.
alter table team add column member_count bigint not null default 0;

create function count_team_members() returns trigger language plpgsql set search_path from current as $$
declare
    sign integer := case when tg_op = 'INSERT' then 1 else -1 end;
begin
    update team set member_count = member_count + sign * changed.number
    from (select team_id, count(*) as number from changed_row group by team_id) as changed
    where team.id = changed.team_id;
    return null;
end $$;

create trigger count_inserted after insert on team_member referencing new table as changed_row
    for each statement execute function count_team_members();
create trigger count_deleted after delete on team_member referencing old table as changed_row
    for each statement execute function count_team_members();

update team set member_count = counted.number
from (select team_id, count(*) as number from team_member group by team_id) as counted
where team.id = counted.team_id;
