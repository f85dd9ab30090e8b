-- Events of one source in one organization are numbered 1, 2, 3, … in commit order: the row is locked from
-- the writing of an event until its commit, which is the last thing a transaction does.
create table outbox_sequence (
    -- The nil UUID counts events without an organization.
    org_id uuid   primary key,
    last   bigint not null
);
-- Zero for events from before there were numbers.
alter table outbox add column sequence bigint not null default 0;

-- The eight bytes of a protobuf sfixed64.
create function little_endian(number bigint) returns bytea language sql immutable parallel safe
return substring(int8send(number) from 8 for 1) || substring(int8send(number) from 7 for 1)
    || substring(int8send(number) from 6 for 1) || substring(int8send(number) from 5 for 1)
    || substring(int8send(number) from 4 for 1) || substring(int8send(number) from 3 for 1)
    || substring(int8send(number) from 2 for 1) || substring(int8send(number) from 1 for 1);

-- The first answer of a repeated call names the events of the first call, too.
alter table idempotency add column event_ids uuid[] not null default '{}';
