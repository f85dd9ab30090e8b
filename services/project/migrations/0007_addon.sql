-- Add-ons have one name in the contract, the code and the tables.
alter table attachment rename to addon;
alter table addon rename column service_key to addon_key;
alter index attachment_service rename to addon_project_key;
alter table instance rename to addon_instance;
alter table addon_instance rename column attachment_id to addon_id;
alter index instance_environment rename to addon_instance_environment;
