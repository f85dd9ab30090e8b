-- Tables and columns are named like the code that uses them, and notification types like the audit actions
-- of their events.
alter table news rename to pending_event;
alter index news_pkey rename to pending_event_pkey;
alter index news_due rename to pending_event_due;
alter table invitation rename column expiry_told_at to expiry_event_at;

-- Former and present names of notification types. A former name with several present ones was one type for
-- several events; `text_pattern` matches the rendered text of each of them.
create temporary table renamed_type (former text not null, present text not null, text_pattern text);
insert into renamed_type (former, present, text_pattern) values
    ('account.email_changed', 'user.email_changed', null),
    ('account.password_changed', 'user.password_changed', null),
    ('account.password_reset', 'user.password_reset', null),
    ('account.second_factor_off', 'user.totp_disabled', null),
    ('deploy.cancelled', 'task.cancelled', null),
    ('deploy.completed', 'deployment.completed', null),
    ('deploy.failed', 'deployment.failed', null),
    ('deploy.started', 'deployment.started', null),
    ('environment.action_failed', 'environment.start_failed', '%The start of %'),
    ('environment.action_failed', 'environment.stop_failed', '%The stop of %'),
    ('environment.action_failed', 'environment.restart_failed', '%The restart of %'),
    ('environment.action_failed', 'environment.pause_failed', '%The pause of %'),
    ('environment.action_failed', 'environment.resume_failed', '%The resumption of %'),
    ('environment.action_failed', 'environment.sync_failed', '%The look at the server of %'),
    ('environment.action_failed', 'environment.clone_failed', '%The copy of %'),
    ('environment.action_failed', 'environment.destroy_failed', '%The destruction of %'),
    ('environment.action_failed', 'environment.provision_failed', '%The deployment of %'),
    ('environment.deleted', 'environment.destroyed', null),
    ('environment.failed', 'environment.state_corrected', null),
    ('environment.status_changed', 'environment.started', '%The start is done%'),
    ('environment.status_changed', 'environment.stopped', '%The stop is done%'),
    ('environment.status_changed', 'environment.restarted', '%The restart is done%'),
    ('environment.status_changed', 'environment.paused', '%The pause is done%'),
    ('environment.status_changed', 'environment.resumed', '%The resumption is done%'),
    ('environment.status_changed', 'environment.synced', '%The look at the server is done%'),
    ('environment.status_changed', 'environment.cloned', '%The copy is done%'),
    ('environment.status_changed', 'environment.provisioned', '%The deployment is done%'),
    ('invitation.received', 'user.invited', null),
    ('monitoring.alert', 'alert.opened', null),
    ('monitoring.alert_changed', 'alert.changed', null),
    ('monitoring.recovered', 'alert.closed', null),
    ('organization.owner_changed', 'organization.ownership_transferred', null),
    ('security.removed', 'user.removed_from_organization', null),
    ('security.role_changed', 'user.role_changed', null),
    ('webhook.disabled', 'webhook.auto_disabled', null);

-- Filters: a former type for several events becomes all of their types.
update webhook set event_types = array(
    select distinct coalesce(present, type)
    from unnest(event_types) as type left join renamed_type on former = type order by 1)
where event_types && array(select former from renamed_type);
update mail_rule set event_types = array(
    select distinct coalesce(present, type)
    from unnest(event_types) as type left join renamed_type on former = type order by 1)
where event_types && array(select former from renamed_type);

-- Rows about one event. The body of a delivery stays: its bytes are the same at every attempt.
update notification set event_type = present from renamed_type
where event_type = former
  and (text_pattern is null or title like text_pattern or body like text_pattern);
update webhook_delivery set event_type = present from renamed_type
where event_type = former and (text_pattern is null or webhook_delivery.body like text_pattern);

drop table renamed_type;
