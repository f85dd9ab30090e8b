-- A named group of members.
create table team (
    id          uuid        not null unique,
    org_id      uuid        not null references organization,
    name        text        not null,
    -- By which names are compared; made by one function only.
    name_key    text        collate "C" not null,
    description text        not null,
    color       text        not null check (color ~ '^#[0-9A-F]{6}$'),
    -- Grows with every change of the columns above.
    revision    bigint      not null,
    created_at  timestamptz not null,
    primary key (org_id, id),
    constraint team_name unique (org_id, name_key)
);

create table team_member (
    -- Sorts by the time of joining the team.
    id         uuid        not null unique,
    org_id     uuid        not null,
    team_id    uuid        not null,
    user_id    uuid        not null,
    created_at timestamptz not null,
    primary key (org_id, team_id, user_id),
    -- ID-25, ID-31: team and member share the organization.
    foreign key (org_id, team_id) references team (org_id, id),
    constraint team_member_member foreign key (org_id, user_id) references member (org_id, user_id)
);
create index team_member_user on team_member (org_id, user_id);

-- A grant is a member's or a team's.
alter table project_grant drop constraint project_grant_pkey;
alter table project_grant alter column user_id drop not null;
alter table project_grant add column team_id uuid;
alter table project_grant add column principal_id uuid not null
    generated always as (coalesce(user_id, team_id)) stored;
alter table project_grant add constraint project_grant_one_principal check (num_nonnulls(user_id, team_id) = 1);
alter table project_grant add foreign key (org_id, team_id) references team (org_id, id);
alter table project_grant add primary key (org_id, project_id, principal_id);
create index project_grant_team on project_grant (org_id, team_id) where team_id is not null;

-- PL-4: the subscription. Deleted organizations keep their rows until they are purged (ID-35).
alter table organization add column subscription text not null default 'active'
    check (subscription in ('active', 'trialing', 'past_due', 'paused', 'canceled', 'blocked'));
alter table organization add column deleted_at timestamptz;
-- Grows with every change of name, slug, plan, subscription or owner.
alter table organization add column revision bigint not null default 1;
-- ID-33: unique among organizations that are not deleted.
alter table organization drop constraint organization_slug;
create unique index organization_slug on organization (slug) where deleted_at is null;

-- ID-8, I-19: at every commit a living organization has exactly one owner, and it is the one it names.
create function one_owner() returns trigger language plpgsql set search_path from current as $$
declare
    row jsonb := case when tg_op = 'DELETE' then to_jsonb(old) else to_jsonb(new) end;
    org uuid  := (row ->> tg_argv[0])::uuid;
begin
    if exists (select from organization where id = org and not exists (
        select from member where org_id = org and role = 'owner' and user_id = organization.owner_id
    )) then
        raise exception 'organization % has no owner', org using errcode = '23514', constraint = 'one_owner';
    end if;
    return null;
end $$;
create constraint trigger one_owner after insert or update or delete on member
    deferrable initially deferred for each row execute function one_owner('org_id');
create constraint trigger one_owner after insert or update of owner_id on organization
    deferrable initially deferred for each row execute function one_owner('id');

-- Every version of an organization's access: the event that made it, and when.
create table access_change (
    org_id     uuid        not null references organization,
    version    bigint      not null,
    event_id   uuid        not null,
    changed_at timestamptz not null,
    primary key (org_id, version)
);

-- What was true from one version of access to another: who was a member, in which teams, with which grants.
-- Kept by triggers, so that no statement can forget it.
create table access_fact (
    org_id       uuid   not null,
    kind         text   not null check (kind in ('member', 'team', 'team_member', 'project', 'user_grant', 'team_grant')),
    -- The account, team or project.
    subject_id   uuid   not null,
    -- The team or project in which; the subject itself where there is none.
    place_id     uuid   not null,
    role         text,
    from_version bigint not null,
    -- The first version in which it was not true any more.
    to_version   bigint
);
create unique index access_fact_open on access_fact (org_id, kind, subject_id, place_id) where to_version is null;
create index access_fact_past on access_fact (org_id, from_version);

-- Arguments: kind, column of the subject, column of the place. The version has been raised before the rows
-- change.
create function remember_access() returns trigger language plpgsql set search_path from current as $$
declare
    gone    jsonb  := case when tg_op = 'INSERT' then null else to_jsonb(old) end;
    come    jsonb  := case when tg_op = 'DELETE' then null else to_jsonb(new) end;
    row     jsonb  := coalesce(come, gone);
    what    text   := tg_argv[0];
    subject uuid   := (row ->> tg_argv[1])::uuid;
    place   uuid   := (row ->> tg_argv[2])::uuid;
    org     uuid   := (row ->> 'org_id')::uuid;
    now_at  bigint := (select access_version from organization where id = org);
begin
    if what = 'grant' then
        what := case when row ->> 'user_id' is null then 'team_grant' else 'user_grant' end;
    end if;
    if tg_op = 'UPDATE' and gone ->> 'role' is not distinct from come ->> 'role' then
        return null;
    end if;
    if gone is not null then
        delete from access_fact where org_id = org and kind = what and subject_id = subject and place_id = place
            and to_version is null and from_version = now_at;
        update access_fact set to_version = now_at
            where org_id = org and kind = what and subject_id = subject and place_id = place and to_version is null;
    end if;
    if come is not null then
        insert into access_fact (org_id, kind, subject_id, place_id, role, from_version)
            values (org, what, subject, place, come ->> 'role', now_at);
    end if;
    return null;
end $$;
create trigger remember after insert or update or delete on member
    for each row execute function remember_access('member', 'user_id', 'user_id');
create trigger remember after insert or delete on team
    for each row execute function remember_access('team', 'id', 'id');
create trigger remember after insert or delete on team_member
    for each row execute function remember_access('team_member', 'user_id', 'team_id');
create trigger remember after insert or delete on project
    for each row execute function remember_access('project', 'id', 'id');
create trigger remember after insert or update or delete on project_grant
    for each row execute function remember_access('grant', 'principal_id', 'project_id');

-- What was there before history was kept.
insert into access_fact (org_id, kind, subject_id, place_id, role, from_version)
    select member.org_id, 'member', user_id, user_id, role, access_version
    from member join organization on organization.id = org_id
    union all
    select project.org_id, 'project', project.id, project.id, null, access_version
    from project join organization on organization.id = org_id
    union all
    select project_grant.org_id, 'user_grant', user_id, project_id, role, access_version
    from project_grant join organization on organization.id = org_id;

-- PL-1: more limits. A feature is a limit of 0 where it is not included.
insert into plan_limit (plan, key, value) values
    ('free', 'environments', 3), ('starter', 'environments', 10),
    ('free', 'servers', 1), ('starter', 'servers', 2),
    ('free', 'api_keys', 0),
    ('pro', 'members', null), ('pro', 'projects', null), ('pro', 'environments', null), ('pro', 'servers', null),
    ('agency', 'members', null), ('agency', 'projects', null), ('agency', 'environments', null),
    ('agency', 'servers', null);

-- The deletion of an organization as the other services take part in it: who has not yet taken along what is
-- theirs.
create table closing (
    org_id    uuid        not null references organization,
    service   text        not null,
    -- Of the organization, when it was deleted.
    revision  bigint      not null,
    closed_at timestamptz,
    primary key (org_id, service)
);
create index organization_deleted on organization (deleted_at) where deleted_at is not null;
