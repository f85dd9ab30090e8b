alter table project
    add column description                text        not null default '',
    add column odoo_version               text        not null default '',
    add column server_id                  uuid,
    add column production_deploy_min_role text        not null default 'developer'
        check (production_deploy_min_role in ('developer', 'admin')),
    add column state                      text        not null default 'active' check (state in ('active', 'deleting')),
    add column version                    bigint      not null default 1,
    add column updated_at                 timestamptz not null default now();
update project set updated_at = created_at;
alter table project alter column updated_at drop default;

-- Machines. Without an organization: shared, and known by the name of their runner.
create table server (
    id              uuid        primary key,
    org_id          uuid,
    name            text        not null,
    address         text        not null,
    -- What environments may take together; null for a shared server, whose operator watches it.
    cpu_millis      integer,
    memory_mb       integer,
    disk_gb         integer,
    -- SHA-256 of the secret of its agent token; null for a shared server.
    token_hash      bytea,
    health          text        not null default 'disconnected'
        check (health in ('healthy', 'degraded', 'disconnected', 'dead')),
    isolation       text        not null default '',
    limits          text        not null default '',
    runner_version  text        not null default '',
    last_seen_at    timestamptz,
    version         bigint      not null default 1,
    created_at      timestamptz not null
);
-- PL-22.
create unique index server_address on server (org_id, lower(address)) where org_id is not null;
create unique index server_shared on server (name) where org_id is null;
create index server_seen on server (last_seen_at) where health <> 'dead';

alter table environment
    add column pause_reason  text check (pause_reason in ('user', 'quota', 'billing')),
    add column resumes       boolean     not null default false,
    add column stable_state  text        not null default 'pending',
    add column server_id     uuid        references server (id),
    add column auto_deploy   boolean     not null default false,
    add column cpu_millis    integer     not null default 500,
    add column memory_mb     integer     not null default 512,
    add column disk_gb       integer     not null default 5,
    add column deployment_id uuid,
    add column version       bigint      not null default 1,
    add column updated_at    timestamptz not null default now();
alter table environment drop constraint environment_state_check;
update environment set updated_at = created_at,
    state = case state when 'stopping' then 'running' else state end,
    stable_state = case state when 'deploying' then 'pending' when 'stopping' then 'running' else state end;
alter table environment alter column updated_at drop default;
alter table environment
    add constraint environment_state_check check (state in
        ('pending', 'deploying', 'running', 'stopped', 'paused', 'cloning', 'error', 'destroying')),
    add constraint environment_paused check ((state = 'paused') = (pause_reason is not null));
create index environment_server on environment (server_id) where server_id is not null;

-- An environment that is gone leaves its tasks; they go with the project.
alter table task drop constraint task_org_id_environment_id_fkey;
alter table task add foreign key (org_id, project_id) references project (org_id, id);
alter table task drop constraint task_state_check, drop constraint task_kind_check;
alter table task
    add constraint task_state_check check (state in ('queued', 'running', 'completed', 'failed', 'cancelled')),
    add constraint task_kind_check check (kind in ('deploy', 'start', 'stop', 'restart', 'pause', 'resume',
        'sync', 'rollback', 'clone', 'promote', 'destroy')),
    add column server_id             uuid,
    add column cause                 text    not null default 'user' check (cause in ('user', 'push', 'system')),
    add column branch                text    not null default '',
    add column commit                text    not null default '',
    add column modules               text[]  not null default '{}',
    add column source_environment_id uuid,
    add column deployment_id         uuid,
    add column retry_of              uuid,
    add column rolled_back           boolean not null default false,
    add column cancel_requested      boolean not null default false,
    add column steps_completed       integer not null default 0,
    add column total_steps           integer not null default 0;
drop index task_waiting;
create index task_waiting on task (server_id, created_at) where state in ('queued', 'running');
create index task_project on task (project_id, id);
-- An environment that is copied stands still as long as its copy is being made.
create unique index task_source on task (source_environment_id)
    where state in ('queued', 'running') and kind = 'clone';

-- The log of a task: lines in batches, as they were reported, found by the number of the first.
drop table task_log;
create table task_log (
    task_id    uuid   not null references task (id),
    first_line bigint not null,
    lines      text[] not null,
    primary key (task_id, first_line)
);

-- What a server last said about an environment.
create table environment_report (
    environment_id uuid             primary key,
    server_id      uuid             not null references server (id) on delete cascade,
    observed       text             not null check (observed in ('running', 'stopped', 'failed', 'paused')),
    http_ok        boolean          not null,
    cpu_cores      double precision not null,
    memory_bytes   bigint           not null,
    disk_bytes     bigint           not null,
    process_count  integer          not null,
    release        uuid,
    detail         text             not null,
    reported_at    timestamptz      not null
);
