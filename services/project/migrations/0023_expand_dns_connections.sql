-- Credentials for the records of a zone on a DNS server.
create table dns_connection (
    id                uuid        not null unique,
    org_id            uuid        not null,
    name              text        not null,
    zone              text        not null,
    provider          text        not null check (provider in ('rfc2136', 'powerdns', 'cloudflare')),
    -- Host and port for RFC 2136, the URL of the API for PowerDNS, empty for Cloudflare.
    server_address    text        not null,
    -- Id of the server for PowerDNS, of the zone for Cloudflare.
    remote_id         text        not null,
    key_name          text        not null,
    key_algorithm     text        check (key_algorithm in ('hmac-sha256', 'hmac-sha384', 'hmac-sha512')),
    -- TSIG key, API key or API token, sealed for the organization.
    sealed            bytea       not null,
    is_default        boolean     not null default false,
    tested_at         timestamptz not null,
    test_error        text        not null default '',
    secret_updated_at timestamptz not null,
    version           bigint      not null default 1,
    creator_id        uuid        not null,
    created_at        timestamptz not null,
    updated_at        timestamptz not null,
    primary key (org_id, id),
    check ((provider = 'rfc2136') = (key_algorithm is not null))
);
-- PL-26: at most one default connection of an organization.
create unique index dns_connection_default on dns_connection (org_id) where is_default;

-- Records that the suite publishes. A row is kept after the deletion of its environment until the record is
-- removed from the DNS server.
create table dns_record (
    id                uuid        not null unique,
    org_id            uuid        not null,
    environment_id    uuid        not null,
    dns_connection_id uuid        not null,
    name              text        not null,
    record_type       text        not null check (record_type in ('A', 'AAAA', 'CNAME', 'TXT')),
    value             text        not null,
    ttl               integer     not null,
    state             text        not null check (state in ('pending', 'published', 'removing')),
    attempts          integer     not null default 0,
    last_error        text        not null default '',
    -- Number of changes of the desired record.
    generation        bigint      not null default 1,
    -- Time of the next attempt; for a published record the time at which it expires.
    next_attempt_at   timestamptz,
    -- End of the attempt that is in progress: there is no other one until then.
    leased_until      timestamptz,
    -- Time at which the record is removed.
    expires_at        timestamptz,
    created_at        timestamptz not null,
    updated_at        timestamptz not null,
    primary key (org_id, id),
    constraint dns_record_name unique (org_id, environment_id, dns_connection_id, name, record_type),
    constraint dns_record_connection foreign key (org_id, dns_connection_id)
        references dns_connection (org_id, id)
);
create index dns_record_next_attempt on dns_record (next_attempt_at) where next_attempt_at is not null;
create index dns_record_of_connection on dns_record (org_id, dns_connection_id, id);

alter table server
    add column dns_connection_id uuid,
    add constraint server_dns_connection foreign key (org_id, dns_connection_id)
        references dns_connection (org_id, id);
create index server_of_dns_connection on server (org_id, dns_connection_id) where dns_connection_id is not null;
