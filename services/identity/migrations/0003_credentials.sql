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
