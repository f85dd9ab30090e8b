//! Lease of the one replica that signs. It is kept with heartbeats, and its fencing token is checked in the
//! transactions that store checkpoints, so a replica that has lost the lease stores nothing.

use std::time::{Duration, Instant};

use chassis::{Db, Result, Tx};
use uuid::Uuid;

use super::store::{self, SignerState};

/// Interval of the heartbeats of a replica. After [`store::LEASE_SECONDS`] without one, it counts as stopped.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// Lease of this replica, or its wait for the lease.
pub(super) struct Lease {
    db: Db,
    replica: Uuid,
    /// Token of the lease, while this replica holds it.
    token: Option<i64>,
    /// The newest token that this replica has confirmed.
    confirmed: i64,
    last_heartbeat: Option<Instant>,
}

impl Lease {
    pub(super) fn new(db: Db, replica: Uuid) -> Self {
        Self { db, replica, token: None, confirmed: 0, last_heartbeat: None }
    }

    /// Takes the lease if it is free. Returns the fencing token if this replica may sign: it holds the lease,
    /// and every running replica has confirmed the token. The call itself confirms the token for this
    /// replica, so it must follow a successful comparison of the stored suite tree with the journal.
    pub(super) async fn signing_token(&mut self, state: &SignerState) -> Result<Option<i64>> {
        self.token =
            self.token.filter(|it| state.holder == Some(self.replica) && state.token == *it);
        self.beat(state.token).await?;
        if self.token.is_none() {
            let acquire = async |tx: &mut Tx| store::acquire_lease(tx, self.replica).await;
            self.token = self.db.write_as_system("signer", acquire).await?;
            if let Some(token) = self.token {
                tracing::info!(replica = %self.replica, token, "this replica signs the audit log now");
                self.beat(token).await?;
            }
        }
        match self.token {
            Some(token) if store::is_confirmed(&self.db, token).await? => Ok(Some(token)),
            _ => Ok(None),
        }
    }

    /// Records that this replica runs and has confirmed a token. Writes only if that is new, or due.
    async fn beat(&mut self, token: i64) -> Result<()> {
        let is_due = self.last_heartbeat.is_none_or(|it| it.elapsed() > HEARTBEAT_INTERVAL);
        if !is_due && token == self.confirmed {
            return Ok(());
        }
        let beat = async |tx: &mut Tx| store::record_heartbeat(tx, self.replica, token).await;
        self.db.write_as_system("signer", beat).await?;
        self.confirmed = token;
        self.last_heartbeat = Some(Instant::now());
        Ok(())
    }

    /// Releases the lease and removes this replica, so that another one can sign at once.
    pub(super) async fn release(&mut self) -> Result<()> {
        self.token = None;
        let release = async |tx: &mut Tx| store::release_lease(tx, self.replica).await;
        self.db.write_as_system("signer", release).await
    }
}
