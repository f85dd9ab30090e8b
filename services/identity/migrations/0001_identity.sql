-- A person. Called account because user is a word of SQL.
create table account (
    id                uuid        primary key,
    -- As it was typed; mail goes here.
    email             text        not null,
    -- What makes two addresses the same. Made by one function only; the check refuses what it never makes.
    canonical_email   text        collate "C" not null
        constraint account_canonical_email_ascii check (canonical_email ~ '^[!-?\[-~]+@[a-z0-9.-]+$'),
    display_name      text        not null,
    password_hash     text        not null,
    email_verified_at timestamptz,
    created_at        timestamptz not null,
    constraint account_email unique (canonical_email)
);

-- Proof that a person signed in. Only the hash of the secret is kept.
create table session (
    id          uuid        primary key,
    user_id     uuid        not null references account,
    secret_hash bytea       not null,
    created_at  timestamptz not null,
    expires_at  timestamptz not null,
    revoked_at  timestamptz
);
create index session_open on session (user_id) where revoked_at is null;

-- A mailed link that confirms an address: bound to account and address, works once.
create table verification (
    id              uuid        primary key,
    user_id         uuid        not null references account,
    canonical_email text        not null,
    secret_hash     bytea       not null,
    expires_at      timestamptz not null,
    used_at         timestamptz
);

-- PL-1: limits are data. No row or null means unlimited.
create table plan_limit (
    plan  text   not null,
    key   text   not null,
    value bigint,
    primary key (plan, key)
);
insert into plan_limit (plan, key, value) values
    ('free', 'members', 2), ('starter', 'members', 5),
    ('free', 'projects', 2), ('starter', 'projects', 5);

-- A tenant. Its row is the lock under which members, grants and limits change.
create table organization (
    id             uuid        primary key,
    name           text        not null,
    slug           text        collate "C" not null constraint organization_slug unique,
    plan           text        not null check (plan in ('free', 'starter', 'pro', 'agency')),
    owner_id       uuid        not null references account,
    created_by     uuid        not null references account,
    -- Grows with every change of access.
    access_version bigint      not null,
    created_at     timestamptz not null
);
create index organization_created_by on organization (created_by);

create table member (
    -- Sorts by the time of joining.
    id            uuid        not null unique,
    org_id        uuid        not null references organization,
    user_id       uuid        not null references account,
    role          text        not null check (role in ('viewer', 'developer', 'admin', 'owner')),
    invitation_id uuid,
    created_at    timestamptz not null,
    primary key (org_id, user_id)
);
-- ID-1: at most one owner; the rules see to it that there is one.
create unique index member_owner on member (org_id) where role = 'owner';
create index member_user on member (user_id);

-- Projects that exist elsewhere, as far as access needs to know them.
create table project (
    org_id uuid not null references organization,
    id     uuid not null unique,
    primary key (org_id, id)
);

create table project_grant (
    -- Sorts by the time of granting.
    id         uuid        not null unique,
    org_id     uuid        not null,
    project_id uuid        not null,
    user_id    uuid        not null,
    role       text        not null check (role in ('viewer', 'developer', 'admin')),
    granted_by uuid        not null,
    created_at timestamptz not null,
    primary key (org_id, project_id, user_id),
    -- ID-31: project, member and grant share the organization.
    foreign key (org_id, project_id) references project (org_id, id),
    constraint project_grant_member foreign key (org_id, user_id) references member (org_id, user_id)
);
create index project_grant_user on project_grant (org_id, user_id);
