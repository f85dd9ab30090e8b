-- Facts that ended after a version, for the update of a cached snapshot.
create index access_fact_ended on access_fact (org_id, to_version) where to_version is not null;
