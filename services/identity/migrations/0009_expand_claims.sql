-- An address belongs to the account that has proven its mailbox. Until then any number of accounts may claim
-- it. An exclusion constraint instead of a unique index, because it may have a condition, and because the
-- `on conflict on constraint account_email` of the former program accepts it.
alter table account drop constraint account_email;
alter table account add constraint account_email
    exclude using btree (canonical_email with =) where (email_verified_at is not null);
create index account_claim on account (canonical_email, created_at)
    where email_verified_at is null and deleted_at is null;
create index account_claim_age on account (created_at) where email_verified_at is null and deleted_at is null;

-- The address of an account is notified of a requested change, too.
alter table mailed_link drop constraint mailed_link_purpose;
alter table mailed_link add constraint mailed_link_purpose
    check (purpose in ('verify', 'reset', 'change', 'told_registered', 'told_changed', 'change_requested'));
