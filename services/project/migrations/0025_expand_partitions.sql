-- Logs are partitioned by the time in the identifiers of their tasks.
select partition_table('task_log');
