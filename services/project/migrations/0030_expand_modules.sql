-- Tasks that update modules of the deployed version.
alter table task drop constraint task_kind_check;
alter table task add constraint task_kind_check check (kind in ('deploy', 'start', 'stop', 'restart', 'pause',
    'resume', 'sync', 'rollback', 'clone', 'promote', 'destroy', 'provision', 'update_modules'));
