create table project (
    id             uuid        not null unique,
    org_id         uuid        not null,
    name           text        not null,
    slug           text        not null,
    repository_url text        not null,
    default_branch text        not null,
    creator_id     uuid        not null,
    created_at     timestamptz not null,
    primary key (org_id, id)
);
-- PE-3: unique in the organization, ignoring case. Slugs are ASCII, so lower() is safe.
create unique index project_slug on project (org_id, lower(slug));

create table environment (
    id         uuid        not null unique,
    org_id     uuid        not null,
    project_id uuid        not null,
    name       text        not null,
    kind       text        not null check (kind in ('development', 'staging', 'production')),
    state      text        not null check (state in ('pending', 'deploying', 'running', 'error')),
    branch     text        not null,
    commit     text        not null default '',
    url        text        not null default '',
    last_error text        not null default '',
    created_at timestamptz not null,
    primary key (org_id, id),
    foreign key (org_id, project_id) references project (org_id, id)
);
create unique index environment_name on environment (project_id, name);
-- PE-20: at most one production environment in a project.
create unique index environment_production on environment (project_id) where kind = 'production';

create table task (
    id               uuid        not null unique,
    org_id           uuid        not null,
    project_id       uuid        not null,
    environment_id   uuid        not null,
    state            text        not null check (state in ('queued', 'running', 'completed', 'failed')),
    progress_percent integer     not null default 0 check (progress_percent between 0 and 100),
    current_step     text        not null default '',
    error_message    text        not null default '',
    triggered_by     uuid        not null,
    created_at       timestamptz not null,
    started_at       timestamptz,
    completed_at     timestamptz,
    -- Who works on it, and until when they must report.
    lease_id         uuid,
    lease_ends_at    timestamptz,
    attempts         integer     not null default 0,
    primary key (org_id, id),
    foreign key (org_id, environment_id) references environment (org_id, id)
);
-- PE-25: one task at a time in an environment.
create unique index task_active on task (environment_id) where state in ('queued', 'running');
create index task_waiting on task (created_at) where state in ('queued', 'running');
create index task_environment on task (environment_id, id);

create table task_log (
    position bigint generated always as identity primary key,
    task_id  uuid not null references task (id),
    line     text not null
);
create index task_log_task on task_log (task_id, position);
