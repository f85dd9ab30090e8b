-- Resource usage of environments over time: the sums, of which averages are made, and the maxima of the
-- samples of a minute or an hour. `id` has the time at which it begins (`lowest_id`), by which the tables are
-- partitioned.
create table metric_minute (
    environment_id   uuid             not null,
    id               uuid             not null,
    sample_count     integer          not null,
    cpu_cores_sum    double precision not null,
    cpu_cores_max    double precision not null,
    memory_bytes_sum double precision not null,
    memory_bytes_max bigint           not null,
    -- Of the last sample.
    disk_bytes       bigint           not null,
    primary key (environment_id, id)
) partition by range (id);
create table metric_minute_default partition of metric_minute default;

create table metric_hour (like metric_minute, primary key (environment_id, id)) partition by range (id);
create table metric_hour_default partition of metric_hour default;

-- Samples of the minute of the last report, which become a row of `metric_minute` with the first report of
-- another minute. Null: the last report is of an older version.
alter table environment_report
    add column minute           timestamptz,
    add column sample_count     integer          not null default 0,
    add column cpu_cores_sum    double precision not null default 0,
    add column cpu_cores_max    double precision not null default 0,
    add column memory_bytes_sum double precision not null default 0,
    add column memory_bytes_max bigint           not null default 0;

-- Time of the report with which `restart_count` last grew.
alter table environment_report add column restarted_at timestamptz;

-- Alerts about environments and servers that the suite raises itself. Each opening and closing is reported to
-- the invitation service, which notifies people.
create table alert (
    -- Id of the environment or the server.
    target_id        uuid        not null,
    target_name      text        not null,
    org_id           uuid        not null,
    -- Null for a server.
    project_id       uuid,
    kind             text        not null check (kind in (
                         'process_down', 'unhealthy', 'restarting', 'high_memory', 'low_disk',
                         'deployment_failed', 'server_unreachable')),
    phase            text        not null check (phase in ('pending', 'open', 'closing', 'closed')),
    -- Begin of the phase.
    since            timestamptz not null,
    open_count       integer     not null,
    value            text        not null,
    -- Number of openings and closings, and of those that were reported.
    version          bigint      not null,
    reported_version bigint      not null,
    -- A process reports the alert until then.
    claimed_until    timestamptz,
    primary key (target_id, kind)
);
create index alert_unreported on alert (since) where version <> reported_version;
create index alert_organization on alert (org_id);
