//! Add-ons: extra services of a project, like a database. The runner of each environment provisions its
//! instance.

pub(crate) mod commands;
pub(crate) mod rpc;
