-- Credentials of programs. Only the hash of the secret is kept.
create table api_key (
    id           uuid        not null unique,
    org_id       uuid        not null references organization,
    -- The only project on which it works, if it is bound to one.
    project_id   uuid,
    name         text        not null,
    is_full      boolean     not null,
    -- I-13: whose rights, at the moment of use, bound it.
    owner_id     uuid        not null references account,
    secret_hash  bytea       not null,
    created_at   timestamptz not null,
    expires_at   timestamptz,
    -- To the minute.
    last_used_at timestamptz,
    revoked_at   timestamptz,
    primary key (org_id, id)
);
create index api_key_owner on api_key (org_id, owner_id) where revoked_at is null;

-- When the person last proved who they are: at sign-in, or since.
alter table session add column proved_at timestamptz not null default '1970-01-01';
alter table session add column last_used_at timestamptz not null default now();
-- Where the person signed in from; a place that is known is not locked out by what others try (I-06).
alter table session add column address text not null default '';
alter table session add column user_agent text not null default '';
create index session_address on session (user_id, address);

-- An account of an identity provider has no password until one is set.
alter table account alter column password_hash drop not null;
-- Grows with every change of the password: links that set one are bound to it (I-16).
alter table account add column password_version bigint not null default 1;
alter table account add column deleted_at timestamptz;
-- The authenticator's secret, sealed; and the last step whose code was used, so that no code works twice.
alter table account add column totp_secret bytea;
alter table account add column totp_enabled_at timestamptz;
alter table account add column totp_step bigint not null default 0;

-- Codes that stand in for the authenticator, each once. Only hashes are kept.
create table recovery_code (
    user_id   uuid        not null references account,
    code_hash bytea       not null,
    used_at   timestamptz,
    primary key (user_id, code_hash)
);

-- A link on its way to a mailbox, or a notice without one: bound to account, purpose, address and password
-- version, works once.
alter table verification rename to mailed_link;
alter table mailed_link add column purpose text not null default 'verify'
    check (purpose in ('verify', 'reset', 'change', 'told_registered', 'told_changed', 'told_taken'));
-- As it was typed; mail goes here.
alter table mailed_link add column email text;
update mailed_link set email = account.email from account where account.id = user_id;
alter table mailed_link alter column email set not null;
alter table mailed_link add column password_version bigint not null default 1;
alter table mailed_link add column created_at timestamptz not null default now();
create index mailed_link_user on mailed_link (user_id, purpose, created_at);

-- A sign-in whose first proof was right and that waits for the second factor.
create table login_challenge (
    id          uuid        primary key,
    user_id     uuid        not null references account,
    secret_hash bytea       not null,
    method      text        not null,
    expires_at  timestamptz not null,
    used_at     timestamptz
);

-- With which accounts of identity providers an account can sign in.
create table external_identity (
    issuer    text        not null,
    subject   text        not null,
    user_id   uuid        not null references account,
    linked_at timestamptz not null,
    primary key (issuer, subject)
);
create index external_identity_user on external_identity (user_id);

-- A sign-in on its way through an identity provider. What its answer must match is sealed.
create table external_login (
    id         uuid        primary key,
    sealed     bytea       not null,
    expires_at timestamptz not null,
    used_at    timestamptz
);
