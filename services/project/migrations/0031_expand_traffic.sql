-- Traffic of environments. Reports have totals since a time, of which the differences are added to the minute:
-- numbers of requests and of errors, seconds of all requests, bytes of the network. Not integers, whose range
-- the sums could exceed.
alter table environment_report
    add column traffic_start_time   timestamptz,
    add column request_total        double precision not null default 0,
    add column error_total          double precision not null default 0,
    add column duration_s_total     double precision not null default 0,
    add column received_bytes_total double precision not null default 0,
    add column sent_bytes_total     double precision not null default 0,
    add column request_count        double precision not null default 0,
    add column error_count          double precision not null default 0,
    add column duration_s_sum       double precision not null default 0,
    add column received_bytes       double precision not null default 0,
    add column sent_bytes           double precision not null default 0;

-- Increase of a total, which began again at 0 unless both are of the same run.
create function increase(is_same_run boolean, before double precision, now double precision)
returns double precision language sql immutable as $$
    select greatest(case when is_same_run then now - before else now end, 0)
$$;

alter table metric_minute
    add column request_count  double precision not null default 0,
    add column error_count    double precision not null default 0,
    add column duration_s_sum double precision not null default 0,
    add column received_bytes double precision not null default 0,
    add column sent_bytes     double precision not null default 0;

alter table metric_hour
    add column request_count  double precision not null default 0,
    add column error_count    double precision not null default 0,
    add column duration_s_sum double precision not null default 0,
    add column received_bytes double precision not null default 0,
    add column sent_bytes     double precision not null default 0;

-- Certificate of an environment's host names that expires first; null if there is none.
alter table environment_report
    add column certificate_hostname   text,
    add column certificate_start_time timestamptz,
    add column certificate_end_time   timestamptz;

alter table alert drop constraint alert_kind_check, add constraint alert_kind_check check (kind in (
    'process_down', 'unhealthy', 'restarting', 'high_memory', 'low_disk', 'deployment_failed',
    'certificate_expiring', 'server_unreachable'));
