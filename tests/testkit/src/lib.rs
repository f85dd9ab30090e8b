//! Test fixtures: the whole suite in the test process, on a real PostgreSQL with one database per test, with
//! real NATS where a test needs it, a settable clock, and signed-in people.

#![expect(clippy::disallowed_methods, reason = "a test has no host whose tasks are drained")]

pub mod bounds;
mod browser;
mod cloudflare;
mod database;
mod deployments;
mod dns;
mod dns_servers;
mod engine;
mod event_coverage;
mod git_server;
pub mod load;
mod nats;
mod nats_cluster;
mod network;
mod oidc;
mod pebble;
mod person;
mod port;
mod postgres_pair;
mod process;
mod program_images;
mod prometheus;
mod receiver;
mod registry;
mod repository;
mod s3_server;
mod smtp;
mod ssh_server;
mod stripe;
mod suite;
mod warnings;

pub use audit::Findings;
pub use browser::Browser;
pub use cloudflare::Cloudflare;
pub use database::{Database, config};
pub use deployments::{caddy, stop_deployments, stop_deployments_of_runner};
pub use dns::Dns;
pub use dns_servers::{Named, PowerDnsServer};
pub use engine::{BASE_IMAGE, Containers, Engine};
pub use git_server::{ApiRequest, ApiResponse, GitRequest, GitServer};
pub use nats::Nats;
pub use nats_cluster::NatsCluster;
pub use network::start_gateway;
pub use oidc::OidcProvider;
pub use pebble::Pebble;
pub use person::{PASSWORD, Person};
pub use port::{ReservedListener, ReservedPort};
pub use postgres_pair::PostgresPair;
pub use process::{Process, binary};
pub use program_images::{odoo_image, tryton_image};
pub use prometheus::{Alertmanager, Prometheus, run_prometheus_tool};
pub use receiver::{Receiver, Request, Response};
pub use registry::Registry;
pub use repository::Repository;
pub use s3_server::{S3Fault, S3Server};
pub use smtp::Smtp;
pub use ssh_server::SshServer;
pub use stripe::{Stripe, Subscription as StripeSubscription};
pub use suite::{Options, StoppedSuite, Suite};

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

/// Address of this machine for its own processes, with a port that the kernel chooses.
pub const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

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
        panic!("{event} did not happen within {TIMEOUT:?}{}", warnings::text());
    };
    value
}

/// Files below a directory: relative paths and contents, by path.
pub fn files_below(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = vec![];
    let mut directories = vec![directory.to_owned()];
    while let Some(current) = directories.pop() {
        for entry in std::fs::read_dir(&current).expect("a readable directory") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let name = path.strip_prefix(directory).expect("a path below the directory");
                let content = std::fs::read(&path).expect("a readable file");
                files.push((name.display().to_string(), content));
            }
        }
    }
    files.sort();
    files
}
