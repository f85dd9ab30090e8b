-- Version of the password that was proven; a later version ends the challenge.
alter table login_challenge add column password_version bigint not null default 0;
-- Codes that were tried, right or wrong.
alter table login_challenge add column attempts integer not null default 0;

-- A second factor belongs to whoever has proven the mailbox: an account that only claims an address could
-- otherwise lock its owner out.
update account set totp_secret = null, totp_enabled_at = null where email_verified_at is null;
delete from recovery_code using account where account.id = user_id and email_verified_at is null;
alter table account add constraint account_second_factor
    check (totp_enabled_at is null or email_verified_at is not null);

-- The mail of a change of address is composed when it is sent, also the one that says that the address has
-- an account already.
delete from mailed_link where purpose = 'told_taken';
alter table mailed_link drop constraint mailed_link_purpose_check;
alter table mailed_link add constraint mailed_link_purpose
    check (purpose in ('verify', 'reset', 'change', 'told_registered', 'told_changed'));
