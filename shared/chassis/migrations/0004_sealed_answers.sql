-- First answers hold secrets that are shown once, so they are sealed under a key that follows from the request
-- itself: neither a request id nor a body nor a caller is stored, only a MAC that finds the row. Answers that
-- were kept in clear go; a request that is repeated across this migration is carried out again.
drop table idempotency;
create table idempotency (
    -- MAC of caller, method and request id, under the deployment's key.
    request_mac bytea       primary key,
    -- MAC of the body; a repeated request has the same one.
    body_mac    bytea       not null,
    -- The encoded answer, sealed. Null while the first call is being carried out.
    response    bytea,
    event_ids   uuid[]      not null default '{}',
    created_at  timestamptz not null
);
create index idempotency_created_at on idempotency (created_at);
