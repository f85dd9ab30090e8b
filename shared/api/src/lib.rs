//! The wire contract: messages, services, descriptors and validation, all generated from `proto/`. Only
//! [`check`] and [`text`] are written by hand.

pub mod check;
#[cfg(test)]
mod fuzz;
pub mod text;

include!(concat!(env!("OUT_DIR"), "/short_names.rs"));
include!(concat!(env!("OUT_DIR"), "/remedies.rs"));

/// Encoded `FileDescriptorSet` of the contract, with comments and custom options: for gRPC reflection, for
/// the host, which enforces the options, and for tests that must cover every message and method.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Encoded `FileDescriptorSet` of the AdminService. It is apart from the contract, because operators call it
/// at a socket of their own.
pub const ADMIN_DESCRIPTORS: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/admin_descriptors.bin"));

/// Generated code, one module per proto package.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
mod packages {
    include!(concat!(env!("OUT_DIR"), "/packages.rs"));
}

pub use packages::tenantry;
