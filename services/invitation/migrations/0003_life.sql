-- Whose secret is in the link that a manager copies. It opens the invitation like the mailed one, but does
-- not prove that its holder reads the mailbox.
alter table invitation add column copied_hash bytea not null default '';
-- When the link was mailed; the newest six at most (IN-20 looks at five).
alter table invitation add column mailed_at timestamptz[] not null default '{}';
alter table invitation add column mail_count integer not null default 0;
-- Why and by whom it was revoked: a number of the contract, and nobody if the suite did it.
alter table invitation add column revoke_cause integer not null default 0;
alter table invitation add column revoker_id uuid;
-- When its expiry was told.
alter table invitation add column expiry_told_at timestamptz;
-- When it was taken out of the list.
alter table invitation add column cleaned_at timestamptz;
update invitation set mailed_at = array[created_at], mail_count = 1;
update invitation set expiry_told_at = created_at where use_count >= max_uses;

-- What the sweeper looks for.
create index invitation_expiry on invitation (expires_at)
    where expiry_told_at is null and revoked_at is null;
-- What the limit of an hour counts.
create index invitation_created on invitation (org_id, created_at);
-- A person's own.
create index invitation_recipient on invitation (canonical_email);
create index invitation_mine on invitation (canonical_email, id)
    where revoked_at is null and max_uses = 1 and use_count = 0;

-- Addresses that want no mail from strangers, or whose server refuses it. By the canonical form.
create table recipient (
    address      text collate "C" primary key,
    opted_out_at timestamptz,
    bounced_at   timestamptz
);
