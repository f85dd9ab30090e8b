-- Where events go.
create table webhook (
    id                uuid        primary key,
    org_id            uuid        not null,
    project_id        uuid,
    url               text        not null,
    -- Types of the catalogue; none means all.
    event_types       text[]      not null,
    description       text        not null,
    format            integer     not null,
    enabled           boolean     not null,
    disabled_reason   text        not null default '',
    -- Sealed under the deployment's key, bound to the webhook.
    secret            bytea       not null,
    old_secret        bytea,
    old_secret_until  timestamptz,
    failure_count     integer     not null default 0,
    failing_since     timestamptz,
    last_triggered_at timestamptz,
    created_at        timestamptz not null,
    -- When its next delivery is due. Only lowered from outside; whoever holds the lease sets it anew.
    due_at            timestamptz,
    -- While it lies ahead somebody delivers, and nobody else does.
    leased_until      timestamptz
);
create index webhook_org on webhook (org_id, id);
create index webhook_due on webhook (due_at) where leased_until is null and enabled;
create index webhook_leased on webhook (leased_until) where leased_until is not null;

-- One event on its way to one webhook.
create table webhook_delivery (
    id              uuid        primary key,
    org_id          uuid        not null,
    webhook_id      uuid        not null references webhook (id) on delete cascade,
    event_id        uuid        not null,
    event_type      text        not null,
    -- The bytes that are signed and sent, the same at each try.
    body            text        not null,
    -- A number of the contract.
    state           integer     not null,
    attempts        integer     not null default 0,
    due_at          timestamptz not null,
    created_at      timestamptz not null,
    delivered_at    timestamptz,
    response_status integer     not null default 0,
    duration_ms     integer     not null default 0,
    response_body   text        not null default '',
    failure         text        not null default ''
);
create index webhook_delivery_list on webhook_delivery (webhook_id, id desc);
create index webhook_delivery_due on webhook_delivery (webhook_id, due_at) where state = 1;
create index webhook_delivery_age on webhook_delivery (created_at);
