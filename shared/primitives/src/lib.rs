//! Values and in-memory state that all crates of the suite share: errors, identifiers, times, keys,
//! credentials, e-mail addresses, network addresses, limits and notifications. Only `key` does I/O: it reads
//! and writes key files.

pub mod budget;
pub mod clock;
pub mod column;
pub mod credential_mask;
pub mod email;
pub mod error;
pub mod fold;
pub mod foreign_text;
#[cfg(test)]
mod fuzz;
pub mod git_credential;
pub mod hostname;
pub mod id;
pub mod key;
pub mod mask;
pub mod public_address;
pub mod ssh_key;
pub mod throttle;
pub mod tls_connector;
pub mod token;
pub mod topics;

pub use clock::{Clock, datetime, timestamp};
pub use error::{Code, Error, OnConstraint, Refusal, Reply, Result};
pub use id::{OrgId, ProjectId, TeamId, UserId};
