//! Rules of the project service, without I/O: values, refusals, state machines, and the events of changes.
//!
//! | concept | module |
//! |---|---|
//! | identifiers | `types` |
//! | CPU, memory and disk | `resources` |
//! | validation of repository URLs and branches | `repository` |
//! | machines on which environments run | `server` |
//! | output of programs | `log` |
//! | commands beside programs | `command` |
//! | units of work of runners, their leases and logs | `task` |
//! | status of organizations | `organization` |
//! | deployed branches of projects and their states | `environment` |
//! | alerts about environments and servers | `alert` |
//! | custom domains of environments | `domain` |
//! | projects | `project` |
//! | environment variables of programs | `variable` |
//! | extra services of a project, like a database | `addon` |
//! | push webhooks of git servers | `push` |
//! | people and teams with a role on a project | `collaborator` |
//! | connections to other systems, with their secrets | `connection` |
//! | messages of runners | `runner` |
#![expect(
    missing_docs,
    reason = "an internal crate: a field or function whose name says everything has no comment"
)]

pub mod addon;
pub mod alert;
pub mod collaborator;
pub mod command;
pub mod connection;
pub mod domain;
pub mod environment;
#[cfg(test)]
mod fuzz;
pub mod log;
pub mod organization;
pub mod project;
pub mod push;
pub mod repository;
pub mod resources;
pub mod runner;
pub mod server;
pub mod task;
pub mod types;
pub mod variable;
