-- Projects whose creation has begun. A pending reservation holds the slug while identity registers the project;
-- no reader sees it. A confirmed one remains for a day, so that a repeated call finds its project id.
create table project_reservation (
    org_id       uuid        not null,
    project_id   uuid        not null unique,
    creator_id   uuid        not null,
    -- Idempotency key of the call (AIP-155); null: the call cannot be repeated.
    request_id   uuid,
    slug         text        not null,
    confirmed    boolean     not null default false,
    -- True once identity's event ProjectRegistered has arrived.
    registered   boolean     not null default false,
    created_at   timestamptz not null,
    primary key (org_id, project_id)
);
create unique index project_reservation_request on project_reservation (org_id, creator_id, request_id);
create unique index project_reservation_slug on project_reservation (org_id, lower(slug)) where not confirmed;
create index project_reservation_created on project_reservation (created_at);
