-- Custom domains of environments (PL-29).
create table domain (
    id             uuid        not null unique,
    org_id         uuid        not null,
    project_id     uuid        not null,
    environment_id uuid        not null,
    -- In lower case, international names in their ASCII form.
    hostname       text        not null,
    state          text        not null check (state in ('pending', 'verified')),
    txt_value      text        not null,
    -- Proof that was found last.
    verified_by    text        check (verified_by in ('address', 'cname', 'txt')),
    verified_at    timestamptz,
    checked_at     timestamptz,
    check_error    text        not null default '',
    -- Time of the first check of a verified domain that found no proof.
    missing_since  timestamptz,
    -- Time of the next check by the job; only for verified domains.
    next_check_at  timestamptz,
    creator_id     uuid        not null,
    created_at     timestamptz not null,
    primary key (org_id, id),
    constraint domain_of_environment unique (org_id, environment_id, hostname),
    foreign key (org_id, environment_id) references environment (org_id, id) on delete cascade,
    check ((state = 'verified') = (next_check_at is not null))
);
-- Of all environments at most one serves a domain.
create unique index domain_verified on domain (hostname) where state = 'verified';
create index domain_next_check on domain (next_check_at) where next_check_at is not null;
create index domain_served on domain (org_id, environment_id) where state = 'verified';
