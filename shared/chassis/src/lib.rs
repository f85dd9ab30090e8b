//! The path of a call through a service: the server stack, the call's context, authorization, and the
//! transaction with its events.

pub mod access;
pub mod call;
pub mod changed;
pub mod channel;
pub mod db;
pub mod denials;
pub mod fault_injection;
pub mod idempotency;
pub mod key_limits;
pub mod outbox;
pub mod page;
pub mod rate_limit;
pub mod rule;
pub mod server;
pub mod trace;

pub use primitives::{
    Clock, Code, Error, OnConstraint, OrgId, ProjectId, Refusal, Reply, Result, TeamId, UserId,
    budget, clock, credential_mask, datetime, email, error, fold, foreign_text, git_credential,
    hostname, id, key, mask, public_address, ssh_key, throttle, timestamp, tls_connector, token,
    topics,
};

pub use primitives::text_column;

pub use access::{Access, Grant, ProjectGrant, ScopeGrant};
pub use call::{Account, ApiKeyScope, Call, reply};
pub use changed::{Changed, EventTarget};
pub use db::{Db, Tx, assert_no_transaction};
pub use fault_injection::FaultInjection;
pub use settings::{BillingProvider, Config, registry};

/// Migrations of the tables that every service has in its schema: outbox, inbox, dead letters, deferred
/// events, mail, idempotency.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();
