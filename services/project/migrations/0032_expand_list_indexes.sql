-- Order of lists, so that a page is a range of an index at each place of the list.
create index project_list_update_time on project (org_id, updated_at, id);
create index environment_list on environment (org_id, project_id, id);
create index domain_list on domain (org_id, environment_id, id);
create index server_list on server (org_id, id);
