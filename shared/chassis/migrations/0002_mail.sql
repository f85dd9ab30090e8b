-- What became of a mail. QUEUED until it is sent (SENT), refused for good by the recipient's server
-- (BOUNCED), or no longer wanted when its turn came (SUPPRESSED, with the reason in last_error).
alter table mail add column outcome text not null default 'QUEUED'
    check (outcome in ('QUEUED', 'SENT', 'BOUNCED', 'SUPPRESSED'));
update mail set outcome = 'SENT' where sent_at is not null;
create index mail_subject on mail (subject_id, id);
