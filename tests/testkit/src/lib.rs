//! Test fixtures: the whole suite in the test process, on a real PostgreSQL with one database per test, with
//! real NATS where a test needs it, a settable clock, and signed-in people.

#![expect(clippy::disallowed_methods, reason = "a test has no host whose tasks are drained")]

pub mod bounds;
mod browser;
mod database;
mod deployments;
mod dns;
mod event_coverage;
mod git_server;
mod nats;
mod network;
mod oidc;
mod person;
mod port;
mod process;
mod receiver;
mod repository;
mod smtp;
mod ssh_server;
mod stripe;
mod suite;

pub use audit::Findings;
pub use browser::Browser;
pub use database::{Database, config};
pub use deployments::{caddy, stop_deployments, stop_deployments_of_runner};
pub use dns::Dns;
pub use git_server::{GitRequest, GitServer};
pub use nats::Nats;
pub use oidc::OidcProvider;
pub use person::{PASSWORD, Person};
pub use port::{ReservedListener, ReservedPort};
pub use process::{Process, binary};
pub use receiver::{Receiver, Request, Response};
pub use repository::Repository;
pub use smtp::Smtp;
pub use ssh_server::SshServer;
pub use stripe::{Stripe, Subscription as StripeSubscription};
pub use suite::{Options, StoppedSuite, Suite};

use std::time::Duration;

/// Longest wait for background work.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Calls `poll` every 20 ms until it returns a value. Panics after [`TIMEOUT`] with the name of the event
/// that did not happen, for example "the alert".
pub async fn eventually<T>(event: &str, poll: impl AsyncFn() -> Option<T>) -> T {
    let polling = async {
        loop {
            if let Some(value) = poll().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let Ok(value) = tokio::time::timeout(TIMEOUT, polling).await else {
        panic!("{event} did not happen within {TIMEOUT:?}");
    };
    value
}
