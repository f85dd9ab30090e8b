-- What is known of deleted organizations: the newest revision that was acted on, so that events that come in
-- another order do no harm.
create table organization (
    org_id   uuid    primary key,
    revision bigint  not null,
    deleted  boolean not null
);

alter table environment drop constraint environment_state_check;
alter table environment add constraint environment_state_check
    check (state in ('pending', 'deploying', 'running', 'error', 'stopping', 'stopped'));
alter table task add column kind text not null default 'deploy' check (kind in ('deploy', 'stop'));
