//! Billing: subscriptions of organizations at the billing provider. The rules are in
//! [`identity_rules::billing`].
//!
//! No call to the provider is made in a transaction. A call that changes something is made first, with an
//! idempotency key, and its result is stored in a transaction of its own. A crash in between is healed by the
//! webhook about the change, and by the daily comparison.

pub(crate) mod commands;
pub(crate) mod hook;
pub(crate) mod provider;
pub(crate) mod rpc;
pub(crate) mod settings;
pub(crate) mod store;
mod stripe;
mod wire;
pub(crate) mod worker;
