-- Two facts about an environment: what runs, as last seen, and the state in which its last task ended. Null:
-- never deployed, or no task has ended.
alter table environment
    add column observed        text check (observed in ('running', 'stopped', 'failed', 'paused')),
    add column last_task_state text check (last_task_state in ('completed', 'failed', 'cancelled'));
-- After a failed task the previous version may run: what the server reported, or running if it reported
-- nothing.
update environment set
    observed = case coalesce(nullif(case when state in ('deploying', 'cloning', 'destroying')
                                         then stable_state else state end, 'pending'), '')
        when 'running' then 'running'
        when 'stopped' then 'stopped'
        when 'paused' then 'paused'
        when 'error' then coalesce(
            (select report.observed from environment_report as report
             where report.environment_id = environment.id),
            'running')
    end
    where deployment_id is not null;
update environment set last_task_state =
    (select task.state from task
     where task.environment_id = environment.id and task.state in ('completed', 'failed', 'cancelled')
     order by task.id desc limit 1);

-- Restarts of a program since a task started it, and the exit code when it last ended by itself.
alter table environment_report
    add column restart_count  integer not null default 0,
    add column last_exit_code integer;
