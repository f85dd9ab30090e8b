//! Values of a host that its services use.

use chassis::{Clock, Config, FaultInjection, key::Key, page::Pager};
use eventing::replica_messages::ReplicaMessages;
use tokio_util::sync::CancellationToken;

use super::Host;
use crate::data_dir::DataDir;

impl Host {
    /// Faults that a test injects.
    pub fn faults(&self) -> FaultInjection {
        self.faults
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// True if no other process changes the databases: events are delivered inside this process.
    pub fn is_only_process(&self) -> bool {
        self.config.nats_url.is_none()
    }

    /// The deployment's secret key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The data directory.
    pub fn data_dir(&self) -> &DataDir {
        &self.data_dir
    }

    /// The wall clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Returns requests between the replicas of a service. They work when the host runs.
    pub fn replica_messages(&self) -> ReplicaMessages {
        self.replica_messages.clone()
    }

    /// Cancelled when the shutdown begins. Streams without an end of their own end then.
    pub fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Returns a reader of page parameters.
    pub fn pager(&self) -> Pager {
        Pager::new(&self.key)
    }
}
