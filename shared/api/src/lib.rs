//! The wire contract: messages, services, descriptors and the checks of declared rules, all generated
//! from `proto/`. Nothing here is written by hand but [`check`].

pub mod check;
#[cfg(test)]
mod fuzz;

pub use tenantry::{
    audit::v1 as audit, error::v1 as error, event::v1 as event, identity::v1 as identity,
    invitation::v1 as invitation, project::v1 as project,
};

/// Every message and service with comments and options, for reflection, for the host that enforces the
/// rules, and for tests that must cover them all.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The generated tree, by package.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
mod tree {
    include!(concat!(env!("OUT_DIR"), "/tree.rs"));
}

pub use tree::tenantry;
