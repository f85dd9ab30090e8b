-- The secret of the push webhook, sealed.
alter table project add column push_secret bytea;

alter table task
    add column commit_subject text not null default '',
    add column commit_author  text not null default '';
create index task_deployed on task (project_id, id)
    where kind in ('deploy', 'rollback', 'promote');

-- The newest push that came while the environment was busy; empty: none.
alter table environment add column pushed_commit text not null default '';

create table environment_variable (
    org_id         uuid        not null,
    environment_id uuid        not null,
    name           text        not null,
    -- One of the two: as it is, or sealed for the organization.
    value          text,
    sealed         bytea,
    updated_at     timestamptz not null,
    primary key (environment_id, name),
    foreign key (org_id, environment_id) references environment (org_id, id) on delete cascade,
    check ((value is null) <> (sealed is null))
);
