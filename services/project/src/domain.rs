//! Custom domains of environments (PL-29), and the checks of their proofs.

mod checker;
mod commands;
pub(crate) mod recheck;
pub(crate) mod rpc;

pub(crate) use checker::DomainChecker;
