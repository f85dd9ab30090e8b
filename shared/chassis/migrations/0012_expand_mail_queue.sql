-- Organization on whose behalf a mail is sent; the nil UUID for mails about accounts. Organizations take
-- turns.
alter table mail add column org_id uuid not null default '00000000-0000-0000-0000-000000000000';
-- 1: a link that a person waits for. 2: a notice.
alter table mail add column priority smallint not null default 1;
-- Mails are retried for five days from here. Mails of an older version that used up their ten attempts are
-- retried again.
alter table mail add column created_at timestamptz not null default now();
-- FAILED: not accepted by the mail server within five days.
alter table mail drop constraint mail_outcome_check;
alter table mail add constraint mail_outcome_check
    check (outcome in ('QUEUED', 'SENT', 'BOUNCED', 'SUPPRESSED', 'FAILED'));
create index mail_turn on mail (priority, org_id, due_at) where sent_at is null;
