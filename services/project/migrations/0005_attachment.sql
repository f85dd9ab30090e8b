-- Extra services of projects.
create table attachment (
    id          uuid        not null unique,
    org_id      uuid        not null,
    project_id  uuid        not null,
    service_key text        not null,
    config      jsonb       not null,
    removing    boolean     not null default false,
    creator_id  uuid        not null,
    created_at  timestamptz not null,
    version     bigint      not null default 1,
    primary key (org_id, id),
    foreign key (org_id, project_id) references project (org_id, id)
);
create unique index attachment_service on attachment (project_id, service_key);

-- What each environment has of them.
create table instance (
    org_id         uuid  not null,
    attachment_id  uuid  not null,
    environment_id uuid  not null,
    state          text  not null check (state in ('waiting', 'ready', 'error', 'removing')),
    error_message  text  not null default '',
    -- The password, sealed for the organization.
    sealed         bytea not null,
    primary key (attachment_id, environment_id),
    foreign key (org_id, attachment_id) references attachment (org_id, id),
    foreign key (org_id, environment_id) references environment (org_id, id) on delete cascade
);
create index instance_environment on instance (environment_id);

-- Whether an environment is to get or lose a service as soon as it is not busy.
alter table environment add column provision_due boolean not null default false;
-- Where programs of this server reach its databases.
alter table server add column database_address text not null default '';
alter table task drop constraint task_kind_check;
alter table task add constraint task_kind_check check (kind in ('deploy', 'start', 'stop', 'restart', 'pause',
    'resume', 'sync', 'rollback', 'clone', 'promote', 'destroy', 'provision'));
