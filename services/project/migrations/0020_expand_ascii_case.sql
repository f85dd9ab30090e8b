-- Slugs and addresses of servers are ASCII and unique without case, by rules that do not depend on the locale of the
-- database: in Turkish the lower case of `I` is not `i`. The former program needs the older index of slugs.
create unique index project_slug_ascii on project (org_id, lower(slug collate "C"));
drop index server_address;
create unique index server_address on server (org_id, lower(address collate "C")) where org_id is not null;
