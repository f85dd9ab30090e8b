-- The roles that the services log in as; `tenantry migrate` gives each the privileges on its own schema. FOR
-- TRYING OUT: the passwords are in this file.
create role tenantry_identity login password 'identity';
create role tenantry_project login password 'project';
create role tenantry_invitation login password 'invitation';
create role tenantry_audit login password 'audit';
