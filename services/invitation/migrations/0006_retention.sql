-- Rows that the retention job looks for.
create index invitation_end on invitation (expires_at);
create index notification_age on notification (created_at);
create index digest_age on digest (due_at);
