-- Domain below which the runner of a server serves its environments; empty if it has none.
alter table server add column apps_domain text not null default '';

-- Host name of an environment below the domain of its server; empty before its first start there.
alter table environment add column hostname text not null default '';
create unique index environment_hostname on environment (hostname) where hostname <> '';
