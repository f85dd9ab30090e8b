-- Key pairs for Git connections by SSH that no connection uses yet. The private half is sealed.
create table git_deploy_key (
    id         uuid        not null unique,
    org_id     uuid        not null,
    sealed     bytea       not null,
    public_key text        not null,
    creator_id uuid        not null,
    created_at timestamptz not null,
    primary key (org_id, id)
);
create index git_deploy_key_created on git_deploy_key (created_at);

-- Credentials for the repositories of a Git server.
create table git_connection (
    id                  uuid        not null unique,
    org_id              uuid        not null,
    name                text        not null,
    provider            text        not null check (provider in ('other', 'github', 'gitlab', 'gitea')),
    -- Scheme, host and port.
    server_url          text        not null,
    test_repository_url text        not null,
    username            text        not null,
    -- The access token, or the private half of the deploy key, sealed for the organization.
    sealed              bytea       not null,
    deploy_key_id       uuid,
    public_key          text        not null,
    host_key            text        not null,
    is_default          boolean     not null default false,
    tested_at           timestamptz not null,
    test_error          text        not null default '',
    secret_updated_at   timestamptz not null,
    version             bigint      not null default 1,
    creator_id          uuid        not null,
    created_at          timestamptz not null,
    updated_at          timestamptz not null,
    primary key (org_id, id),
    check ((deploy_key_id is null) = (public_key = ''))
);
-- PL-26: at most one default connection of an organization.
create unique index git_connection_default on git_connection (org_id) where is_default;

alter table project
    add column git_connection_id uuid,
    add constraint project_git_connection foreign key (org_id, git_connection_id)
        references git_connection (org_id, id);
create index project_git_connection on project (org_id, git_connection_id) where git_connection_id is not null;
