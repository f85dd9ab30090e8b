-- Largest number of members that the paid seats allow; null if they limit nothing (PL-49).
alter table organization add column seat_limit bigint;

-- The account of an organization at the billing provider, and its subscription there.
create table subscription (
    org_id               uuid        primary key references organization,
    customer_id          text        collate "C" not null constraint subscription_customer unique,
    -- Id of the subscription; null before the first one and after its end.
    provider_id          text        collate "C",
    item_id              text        collate "C",
    status               text        check (status in ('trialing', 'active', 'overdue')),
    seat_policy          text        not null default 'refuse' check (seat_policy in ('refuse', 'buy')),
    seats_paid           bigint,
    period_start         timestamptz,
    period_end           timestamptz,
    trial_end            timestamptz,
    trial_used           boolean     not null default false,
    cancel_at_period_end boolean     not null default false,
    scheduled_plan       text        check (scheduled_plan in ('free', 'starter', 'pro', 'agency')),
    past_due_since       timestamptz,
    -- Grows with every change of the row. A state of the provider is stored only over the revision from before it
    -- was read.
    revision             bigint      not null default 1,
    -- Failed calls to the provider in a row.
    failures             integer     not null default 0,
    synced_at            timestamptz not null,
    next_attempt_at      timestamptz not null
);
create index subscription_next_attempt on subscription (next_attempt_at);

-- Webhooks of the provider, each once (PL-46).
create table billing_event (
    id           text        collate "C" primary key,
    org_id       uuid        not null references organization,
    kind         text        not null,
    object_id    text        not null,
    received_at  timestamptz not null,
    processed_at timestamptz
);
create index billing_event_pending on billing_event (org_id) where processed_at is null;
create index billing_event_age on billing_event (received_at);
