//! Containment of damage: quarantine of one log, the stop of all signing, and the alarms about both.
//!
//! Metrics: `tenantry.audit.alarms` counts the alarms, each with the attribute `cause`; the gauges
//! `tenantry.audit.quarantined_logs` and `tenantry.audit.signing_stopped` (0 or 1) have the state.

use std::sync::Arc;

use api::error::Reason;
use chassis::{Code, Db, Error, Refusal, Result, Tx};
use opentelemetry::{
    KeyValue, global,
    metrics::{Counter, Gauge},
};
use uuid::Uuid;
use verifier::witness::WitnessPolicy;

use super::store;
use crate::{
    damage::is_damage,
    head_journal::SignedHeads,
    publication::{self, Publication},
    tree::{SUITE_TREE, tree_name},
};

/// Value of the attribute `cause` of alarms about the stop of signing.
const SIGNING_STOPPED: &str = "SIGNING_STOPPED";

/// Refusal of proofs while signing is stopped.
#[derive(Debug, thiserror::Error)]
#[error(
    "signing is stopped, because signed heads of the log contradict each other or the tree of checkpoints is \
     damaged; the log proves nothing until the operator has cleared that up"
)]
struct SigningStopped;

impl Refusal for SigningStopped {
    fn code(&self) -> Code {
        Code::FailedPrecondition
    }

    fn reason(&self) -> Reason {
        Reason::SigningStopped
    }
}

/// Refusal of proofs while signing is stopped.
pub(crate) fn signing_stopped() -> Error {
    SigningStopped.into()
}

/// Containment of damage, for everything that reads, appends to, or signs the log.
#[derive(Clone)]
pub(crate) struct LogGuard {
    db: Db,
    pub(crate) heads: SignedHeads,
    log_name: String,
    /// Witnesses whose cosignatures are required before a head is published.
    policy: Option<Arc<WitnessPolicy>>,
    meter: Meter,
}

#[derive(Clone)]
struct Meter {
    alarms: Counter<u64>,
    quarantined: Gauge<u64>,
    stopped: Gauge<u64>,
}

impl Meter {
    fn new() -> Self {
        let meter = global::meter("tenantry");
        Self {
            alarms: meter.u64_counter("tenantry.audit.alarms").build(),
            quarantined: meter.u64_gauge("tenantry.audit.quarantined_logs").build(),
            stopped: meter.u64_gauge("tenantry.audit.signing_stopped").build(),
        }
    }

    fn count(&self, cause: &str) {
        self.alarms.add(1, &[KeyValue::new("cause", cause.to_owned())]);
    }
}

impl LogGuard {
    /// Creates the guard of the log `log_name`.
    pub(crate) fn new(
        db: Db,
        heads: SignedHeads,
        log_name: &str,
        policy: Option<Arc<WitnessPolicy>>,
    ) -> Self {
        Self { db, heads, log_name: log_name.to_owned(), policy, meter: Meter::new() }
    }

    /// Returns the heads that are published. A stored checkpoint without the required cosignatures, for
    /// example of a former policy, does not count.
    pub(crate) async fn publication(&self) -> Result<Publication> {
        let Some(policy) = &self.policy else { return Ok(Publication::Signed) };
        let newest = publication::store::newest(&self.db).await?;
        Ok(Publication::Cosigned(newest.filter(|it| policy.is_met(&it.note))))
    }

    /// Name of the log, for stops of signing.
    pub(crate) fn log_name(&self) -> &str {
        &self.log_name
    }

    /// Passes a result on. If it is damage, puts the log of the organization into quarantine first; damage of
    /// the suite tree stops all signing.
    pub(crate) async fn contain<T>(&self, org_id: Uuid, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && is_damage(error)
        {
            self.quarantine(org_id, error).await?;
        }
        result
    }

    /// Puts a log into quarantine because of a damage.
    pub(crate) async fn quarantine(&self, org_id: Uuid, damage: &Error) -> Result<()> {
        let detail = damage.to_string();
        if org_id == SUITE_TREE.0 {
            return self.stop_signing(org_id, &detail).await;
        }
        let cause = match damage {
            Error::Refused { metadata, .. } => metadata.first().map_or("", |it| it.1.as_str()),
            _ => "",
        };
        let insert = async |tx: &mut Tx| store::insert_quarantine(tx, org_id, cause, &detail).await;
        if self.db.write_as_system("quarantine", insert).await? {
            self.alarm_of_quarantine(org_id, cause, &detail);
        }
        Ok(())
    }

    /// Stops all signing, on every replica.
    pub(crate) async fn stop_signing(&self, org_id: Uuid, detail: &str) -> Result<()> {
        let insert =
            async |tx: &mut Tx| store::insert_stop(tx, &self.log_name, org_id, detail).await;
        if self.db.write_as_system("stop of signing", insert).await? {
            self.alarm_of_stop(org_id, detail);
        }
        Ok(())
    }

    /// Fails while signing is stopped.
    pub(crate) async fn require_signing(&self) -> Result<()> {
        match store::stop(&self.db, &self.log_name).await? {
            Some(_) => Err(signing_stopped()),
            None => Ok(()),
        }
    }

    /// Measures the state: the number of logs in quarantine, and the stop of signing.
    pub(crate) async fn measure(&self) -> Result<()> {
        let quarantines = store::quarantines(&self.db).await?;
        self.meter.quarantined.record(quarantines.len().try_into().unwrap_or(u64::MAX), &[]);
        let stop = store::stop(&self.db, &self.log_name).await?;
        self.meter.stopped.record(u64::from(stop.is_some()), &[]);
        Ok(())
    }

    /// Repeats the alarm of every log in quarantine, and of the stop of signing.
    pub(crate) async fn repeat_alarms(&self) -> Result<()> {
        for quarantine in store::quarantines(&self.db).await? {
            self.alarm_of_quarantine(quarantine.org_id, &quarantine.cause, &quarantine.detail);
        }
        if let Some(stop) = store::stop(&self.db, &self.log_name).await? {
            self.alarm_of_stop(stop.org_id, &stop.detail);
        }
        Ok(())
    }

    fn alarm_of_quarantine(&self, org_id: Uuid, cause: &str, detail: &str) {
        self.meter.count(cause);
        tracing::error!(
            %org_id,
            cause,
            detail,
            "AUDIT LOG DAMAGED: the log of this organization is in quarantine, its events wait, all other \
             logs continue; run `tenantry audit fsck`, repair, then run `tenantry audit fsck --release`"
        );
    }

    fn alarm_of_stop(&self, org_id: Uuid, detail: &str) {
        self.meter.count(SIGNING_STOPPED);
        tracing::error!(
            tree = tree_name(org_id),
            detail,
            "AUDIT LOG CONTRADICTS ITSELF: no replica signs, and no proof is served; run `tenantry audit \
             fsck` with the data directory of each replica, repair, then run `tenantry audit fsck --release`"
        );
    }
}
