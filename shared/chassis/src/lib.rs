//! What every service stands on: one file per promise.

pub mod access;
mod budget;
pub mod bus;
pub mod call;
pub mod changed;
pub mod clock;
pub mod config;
pub mod db;
mod denials;
pub mod email;
pub mod error;
pub mod follow;
#[cfg(test)]
mod fuzz;
pub mod host;
pub mod id;
mod idempotency;
pub mod key;
mod key_limits;
pub mod link;
pub mod mail;
pub mod mask;
pub mod outbox;
pub mod page;
pub mod postgres;
pub mod process;
pub mod react;
pub mod retention;
pub mod rule;
mod server;
pub mod telemetry;
pub mod throttle;
pub mod tls;
pub mod token;
mod topics;
pub mod web;

pub use access::{Access, Grant, ProjectGrant, ScopeGrant};
pub use call::{Account, Call, KeyPower, reply};
pub use changed::{About, Changed};
pub use clock::{Clock, moment, timestamp};
pub use config::Config;
pub use db::{Db, Tx};
pub use error::{Code, Error, OnConstraint, Refusal, Reply, Result};
pub use host::Host;
pub use id::{OrgId, ProjectId, UserId};
