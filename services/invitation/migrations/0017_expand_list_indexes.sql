-- Order of the list, so that a page is a range of an index at each place of the list.
create index alert_list on alert (org_id, id) where closed_at is null;
