-- Credentials for storage of files.
create table storage_connection (
    id                uuid        not null unique,
    org_id            uuid        not null,
    name              text        not null,
    kind              text        not null check (kind in ('s3', 'sftp', 'folder')),
    -- Scheme, host and port; empty for a folder.
    server_url        text        not null,
    region            text        not null,
    bucket            text        not null,
    -- Prefix of the objects of a bucket, or directory.
    path              text        not null,
    -- Access key id, or name of the account.
    username          text        not null,
    path_style        boolean     not null,
    -- The secret access key, or the private half of the deploy key, sealed for the organization.
    sealed            bytea       not null,
    deploy_key_id     uuid,
    public_key        text        not null,
    host_key          text        not null,
    is_default        boolean     not null default false,
    tested_at         timestamptz not null,
    test_error        text        not null default '',
    secret_updated_at timestamptz not null,
    version           bigint      not null default 1,
    creator_id        uuid        not null,
    created_at        timestamptz not null,
    updated_at        timestamptz not null,
    primary key (org_id, id),
    check ((deploy_key_id is null) = (public_key = '')),
    check ((kind = 'sftp') = (deploy_key_id is not null))
);
-- PL-26: at most one default connection of an organization.
create unique index storage_connection_default on storage_connection (org_id) where is_default;

-- Exports of the audit log that use a connection (PL-27); the audit service registers them.
create table storage_connection_use (
    org_id                uuid        not null,
    -- Id of the export.
    consumer_id           uuid        not null,
    storage_connection_id uuid        not null,
    -- Name of the export.
    name                  text        not null,
    created_at            timestamptz not null,
    primary key (org_id, consumer_id),
    foreign key (org_id, storage_connection_id) references storage_connection (org_id, id)
);
create index storage_connection_use_connection on storage_connection_use (org_id, storage_connection_id);
