-- Events that somebody may have to be told of. Kept here so that a reaction is quick, and what follows,
-- with its questions to other services, is tried again until it is done.
create table news (
    event_id uuid        primary key,
    envelope bytea       not null,
    attempts integer     not null default 0,
    due_at   timestamptz not null
);
create index news_due on news (due_at);

-- What a person is told in the application.
create table notification (
    id           uuid        primary key,
    user_id      uuid        not null,
    -- None for what happened to the account itself.
    org_id       uuid,
    project_id   uuid,
    event_id     uuid        not null,
    event_type   text        not null,
    -- Numbers of the contract.
    category     integer     not null,
    severity     integer     not null,
    title        text        not null,
    body         text        not null,
    created_at   timestamptz not null,
    read_at      timestamptz,
    dismissed_at timestamptz
);
create index notification_user on notification (user_id, id desc) where dismissed_at is null;
create index notification_unread on notification (user_id)
    where read_at is null and dismissed_at is null;

-- Where a person is told in another way than by default. The nil UUID means everywhere.
create table preference (
    user_id    uuid    not null,
    category   integer not null,
    channel    integer not null,
    org_id     uuid    not null,
    project_id uuid    not null,
    enabled    boolean not null,
    primary key (user_id, category, channel, org_id, project_id)
);
create table quiet_hours (
    user_id      uuid    primary key,
    start_minute integer not null,
    end_minute   integer not null,
    time_zone    text    not null
);

-- A mail that tells one recipient of one or more things. Open for more until it is due, unless it is urgent.
create table digest (
    id      uuid        primary key,
    org_id  uuid,
    -- A person, or an address of a rule.
    user_id uuid,
    rule_id uuid,
    address text,
    urgent  boolean     not null,
    due_at  timestamptz not null
);
create index digest_open on digest (due_at) where not urgent;
create table digest_item (
    digest_id  uuid   not null references digest (id) on delete cascade,
    position   bigint generated always as identity,
    project_id uuid,
    -- What the recipient must be allowed to see when the mail leaves; empty for what happened to themselves.
    permission text   not null,
    title      text   not null,
    body       text   not null,
    primary key (digest_id, position)
);

-- Team inboxes and on-call lists.
create table mail_rule (
    id          uuid        primary key,
    org_id      uuid        not null,
    project_id  uuid,
    recipients  text[]      not null,
    -- Types of the catalogue; none means all.
    event_types text[]      not null,
    description text        not null,
    enabled     boolean     not null,
    created_at  timestamptz not null
);
create index mail_rule_org on mail_rule (org_id, id);

-- What is wrong, until it recovers.
create table alert (
    id          uuid        primary key,
    org_id      uuid        not null,
    project_id  uuid,
    kind        integer     not null,
    target      text        not null,
    target_name text        not null,
    severity    integer     not null,
    value       text        not null,
    opened_at   timestamptz not null,
    updated_at  timestamptz not null,
    closed_at   timestamptz
);
-- One is open for each kind and target (NO-15).
create unique index alert_open on alert (org_id, kind, target) where closed_at is null;
