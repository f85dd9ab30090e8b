-- Login roles of the services; `tenantry migrate` grants each the privileges on its schema. For evaluation only,
-- because this file contains the passwords.
create role tenantry_identity login password 'identity';
create role tenantry_project login password 'project';
create role tenantry_invitation login password 'invitation';
create role tenantry_audit login password 'audit';
