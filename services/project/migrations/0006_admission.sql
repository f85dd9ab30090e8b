-- Whether identity refuses every change of the organization.
alter table organization add column blocked boolean not null default false;

-- When something was last set that takes effect when the program starts again; null: never.
alter table environment add column configured_at timestamptz;

-- Bytes of the log, as they count towards its limit.
alter table task add column log_bytes bigint not null default 0;
