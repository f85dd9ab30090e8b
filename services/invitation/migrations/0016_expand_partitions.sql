-- Notifications and deliveries are partitioned by the time in their identifiers. The retention job finds old
-- rows by these, so it needs no index for their age.
drop index notification_age;
drop index webhook_delivery_age;
select partition_table('notification'), partition_table('webhook_delivery');
