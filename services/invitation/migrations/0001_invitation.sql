create table invitation (
    id              uuid        not null unique,
    org_id          uuid        not null,
    -- As it was typed; mail goes here.
    email           text        not null,
    -- By which addresses are compared; made by one function only.
    canonical_email text        collate "C" not null,
    -- The number of the role in the contract: identity knows what it means. Never the owner's (IN-2).
    role            integer     not null check (role in (1, 2, 3)),
    project_access  jsonb       not null,
    message         text        not null,
    max_uses        integer     not null check (max_uses between 1 and 100),
    -- Never more than allowed, whatever the code does.
    use_count       integer     not null default 0,
    -- The link's secret follows from the deployment's key; only its hash is kept.
    secret_hash     bytea       not null,
    inviter_id      uuid        not null,
    -- Names as they were, for the mail and the preview.
    inviter_name    text        not null,
    org_name        text        not null,
    created_at      timestamptz not null,
    expires_at      timestamptz not null,
    revoked_at      timestamptz,
    primary key (org_id, id),
    constraint invitation_uses check (use_count between 0 and max_uses)
);
create index invitation_address on invitation (org_id, canonical_email) where revoked_at is null;
create index invitation_inviter on invitation (org_id, inviter_id) where revoked_at is null;

create table acceptance (
    invitation_id uuid        not null references invitation (id),
    user_id       uuid        not null,
    accepted_at   timestamptz not null,
    -- IN-17: nobody uses an invitation twice.
    primary key (invitation_id, user_id)
);
