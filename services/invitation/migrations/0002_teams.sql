-- ID-25: teams that come with the membership.
alter table invitation add column team_ids uuid[] not null default '{}';
