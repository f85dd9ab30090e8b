-- Addresses whose mail server permanently rejected a mail of an organization. `recipient.bounced_at` is no
-- longer read: its rejections counted for all organizations, and some were faults of the sender.
create table silenced_address (
    org_id      uuid        not null,
    address     text collate "C" not null,
    silenced_at timestamptz not null,
    -- Reply of the mail server.
    reply       text        not null,
    primary key (org_id, address)
);
create index silenced_address_address on silenced_address (address);

-- Category of all items of a mail to a person, for the link that turns the category off; null for mail rules.
alter table digest add column category integer;
create index digest_urgent on digest (due_at) where urgent;
