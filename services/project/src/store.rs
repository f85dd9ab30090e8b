//! SQL statements, one module per table or concept. Statements lock rows in one order: advisory locks on the
//! organization, then environments by id, their tasks, the project, the server, Git and storage connections,
//! DNS connections, DNS records, add-ons, domains, alerts.

pub(crate) mod addon;
pub(crate) mod admission;
pub(crate) mod alert;
pub(crate) mod deploy_key;
pub(crate) mod dns_connection;
pub(crate) mod dns_record;
pub(crate) mod domain;
pub(crate) mod environment;
pub(crate) mod git_connection;
pub(crate) mod metric;
pub(crate) mod organization;
pub(crate) mod overview;
pub(crate) mod project;
pub(crate) mod push;
pub(crate) mod registration;
pub(crate) mod report;
pub(crate) mod server;
pub(crate) mod storage_connection;
pub(crate) mod task;
pub(crate) mod variable;
