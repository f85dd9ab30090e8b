-- Events, written in the transaction that made them true. Append-only.
create table outbox (
    -- In commit order for transactions that touched the same row: it is taken while the row is locked.
    position    bigint generated always as identity primary key,
    id          uuid   not null unique,
    type        text   not null,
    org_id      uuid,
    envelope    bytea  not null,
    -- With pg_snapshot_xmin it tells which rows no running transaction can still precede.
    written_by  xid8   not null default pg_current_xact_id()
);
create index outbox_written_by on outbox (written_by, position);

-- How far a reader has followed one outbox. It may lag behind what the reader did; the inbox knows that.
create table outbox_cursor (
    reader      text   not null,
    source      text   not null,
    horizon     xid8   not null,
    position    bigint not null,
    primary key (reader, source)
);

-- Events that were acted on here. What arrives twice acts once.
create table inbox (
    event_id    uuid        primary key,
    received_at timestamptz not null
);

-- Events that a reaction gave up on; an operator looks at them and replays them.
create table dead_letter (
    event_id    uuid        primary key,
    type        text        not null,
    envelope    bytea       not null,
    error       text        not null,
    died_at     timestamptz not null
);

-- First answers of mutations that carried a request_id, stored with the mutation.
create table idempotency (
    caller      text        not null,
    method      text        not null,
    request_id  uuid        not null,
    body_hash   bytea       not null,
    response    bytea,
    created_at  timestamptz not null,
    primary key (caller, method, request_id)
);
create index idempotency_created_at on idempotency (created_at);

-- Mail that waits for its sending. The text is made when it is sent, so that no link rests here.
create table mail (
    id          uuid        primary key,
    template    text        not null,
    subject_id  uuid        not null,
    attempts    integer     not null default 0,
    due_at      timestamptz not null,
    sent_at     timestamptz,
    last_error  text
);
create index mail_due on mail (due_at) where sent_at is null;
