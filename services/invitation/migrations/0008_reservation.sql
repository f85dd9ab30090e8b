-- Uses of an invitation that are being granted: written before the identity service is called, deleted when
-- the use is counted or refused. Reservations of one account count as one use.
create table reservation (
    invitation_id uuid        not null references invitation (id) on delete cascade,
    user_id       uuid        not null,
    -- One call, or several with the same request id.
    attempt_id    uuid        not null,
    reserved_at   timestamptz not null,
    primary key (invitation_id, user_id, attempt_id)
);
-- Reservations that no call ended, found by the cleanup.
create index reservation_age on reservation (reserved_at);

-- The attempt by which the use was counted: only its call answers success.
alter table acceptance add column attempt_id uuid;
