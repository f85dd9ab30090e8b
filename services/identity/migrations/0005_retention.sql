-- Addresses that an account had before, so that its deletion erases them everywhere.
create table former_address (
    user_id         uuid        not null references account,
    -- As it was typed.
    email           text        not null,
    canonical_email text        collate "C" not null,
    left_at         timestamptz not null,
    primary key (user_id, canonical_email)
);
insert into former_address (user_id, email, canonical_email, left_at)
    select user_id, email, canonical_email, max(created_at) from mailed_link
    where purpose = 'told_changed' group by user_id, email, canonical_email
    on conflict do nothing;

-- Accounts that were deleted before their addresses were erased everywhere.
delete from session using account where account.id = user_id and deleted_at is not null;
delete from login_challenge using account where account.id = user_id and deleted_at is not null;
delete from mailed_link using account where account.id = user_id and deleted_at is not null;
delete from former_address using account where account.id = user_id and deleted_at is not null;

-- Rows that the retention job looks for.
create index session_expiry on session (expires_at);
create index login_challenge_expiry on login_challenge (expires_at);
create index external_login_expiry on external_login (expires_at);
create index mailed_link_expiry on mailed_link (expires_at);
create index mailed_link_address on mailed_link (canonical_email);
