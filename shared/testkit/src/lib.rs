//! The suite inside a test: a real PostgreSQL with a database of its own for each test, real NATS where a
//! test wants it, a clock that can be moved, and people who call.

#![expect(clippy::disallowed_methods, reason = "a test has no host whose tasks are drained")]

pub mod bounds;
mod browser;
mod database;
mod deployments;
mod names;
mod nats;
mod oidc;
mod person;
mod primary;
mod process;
mod receiver;
mod repository;
mod slow;
mod smtp;
mod suite;

pub use audit::Findings;
pub use browser::Browser;
pub use database::{Database, config};
pub use deployments::{stop_deployments, stop_deployments_of_runner};
pub use names::Names;
pub use nats::Nats;
pub use oidc::Oidc;
pub use person::{PASSWORD, Person};
pub use primary::folder as told;
pub use process::{Process, binary};
pub use receiver::{Answer, Post, Receiver};
pub use repository::Repository;
pub use smtp::Smtp;
pub use suite::{Options, Suite};

use std::time::Duration;

/// What is done in the background is waited for, this long at most.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks again until there is an answer; panics with `what` if there never is.
pub async fn eventually<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let Ok(answer) = tokio::time::timeout(PATIENCE, asking).await else {
        panic!("{what} did not happen within {PATIENCE:?}");
    };
    answer
}
