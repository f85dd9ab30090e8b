//! Reconciliation of an outbox with the audit log. Events that the log lacks are sent to it directly, and
//! events that all readers have read are deleted after a retention time. The comparison is by id over the
//! whole outbox, so it does not depend on the state of NATS or of a reader.

use std::{
    collections::BTreeMap,
    future::Future,
    time::{Duration, Instant},
};

use api::audit::{AppendRequest, ConfirmRequest, ingest_service_client::IngestServiceClient};
use chassis::{Db, Tx, channel::ServiceChannel, error::remote, id};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    BATCH,
    cursor::{self, Cursor, ReaderPositions},
    delivery::Delivery,
};

/// Shortest interval of the comparison, and that while there are events that the log has not confirmed. An
/// event that the log lacks delays the later ones by no more than this and the limit for direct sending.
const INTERVAL: Duration = Duration::from_secs(1);

/// Interval of the deletion of old events.
const DELETE_INTERVAL: Duration = Duration::from_secs(20);

/// Interval of a comparison of the whole outbox: a log that was restored from a backup lacks events that it
/// had confirmed before.
const FULL_INTERVAL: Duration = Duration::from_secs(3600);

/// Age at which events are deleted that the log and all readers have. Until then a relay can publish them
/// again to a NATS server that has lost its data.
const RETENTION: time::Duration = time::Duration::days(7);

/// Largest number of events in a request to the audit log.
const APPEND_BATCH: usize = 100;

/// Name of the reconciler's position among those of the readers.
const READER: &str = "reconciler";

/// Waits of a reconciler.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// Age at which an event that the log lacks is sent to it directly.
    pub(super) direct_after: Duration,
    /// Longest pause between two comparisons while all events are confirmed, without a commit that wakes.
    pub(super) idle: Duration,
}

/// Result of the comparison of a batch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    /// There may be more events to compare.
    More,
    /// The log lacks events that may still be on their way.
    Unconfirmed,
    /// The log has all events.
    Complete,
}

/// Reconciles one outbox with the audit log.
pub(super) struct OutboxReconciler {
    outbox: Db,
    audit: ServiceChannel,
    positions: ReaderPositions,
    patience: Patience,
    /// Position up to which the log has confirmed all events.
    confirmed: Cursor,
    /// Start of the last comparison of the whole outbox.
    full_since: Instant,
    /// Time of the last deletion of old events; `None` before the first one.
    deleted_at: Option<Instant>,
}

impl OutboxReconciler {
    pub(super) fn new(
        outbox: Db,
        audit: ServiceChannel,
        positions: ReaderPositions,
        patience: Patience,
    ) -> Self {
        positions.set(READER, Cursor::default());
        Self {
            outbox,
            audit,
            positions,
            patience,
            confirmed: Cursor::default(),
            full_since: Instant::now(),
            deleted_at: None,
        }
    }

    /// Reconciles until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut idle = Duration::ZERO;
        let outbox = self.outbox.clone();
        let mut commit = outbox.next_commit();
        while stop.run_until_cancelled(pause(commit, idle)).await.is_some() {
            // Before the comparison, so that a commit during it is not missed.
            commit = outbox.next_commit();
            if self.full_since.elapsed() > FULL_INTERVAL {
                self.confirmed = Cursor::default();
                self.full_since = Instant::now();
            }
            idle = match self.compare(&stop).await {
                Ok(Comparison::Complete) => self.patience.idle,
                Ok(_) => Duration::ZERO,
                Err(error) => {
                    tracing::warn!(
                        service = self.outbox.name(),
                        error = format!("{error:#}"),
                        "the audit log does not confirm events; they stay in the outbox"
                    );
                    Duration::ZERO
                }
            };
        }
    }

    /// Compares batches while there are more.
    async fn compare(&mut self, stop: &CancellationToken) -> anyhow::Result<Comparison> {
        loop {
            let comparison = self.step().await?;
            if comparison != Comparison::More || stop.is_cancelled() {
                return Ok(comparison);
            }
        }
    }

    /// Compares a batch.
    async fn step(&mut self) -> anyhow::Result<Comparison> {
        let (batch, next) = cursor::read(&self.outbox, self.confirmed, BATCH).await?;
        if batch.is_empty() {
            self.delete_old().await?;
            return Ok(Comparison::Complete);
        }
        let mut audit = IngestServiceClient::new(self.audit.clone());
        let event_ids = batch.iter().map(|it| it.id.to_string()).collect();
        let request = ConfirmRequest { event_ids };
        let response = audit.confirm(request).await.map_err(remote("audit"))?;
        let missing_indexes = response.into_inner().missing;
        let missing: Vec<&Delivery> =
            missing_indexes.iter().filter_map(|it| batch.get(usize::try_from(*it).ok()?)).collect();
        if let Some(oldest) = missing.first() {
            if self.age(oldest.id) < self.patience.direct_after {
                return Ok(Comparison::Unconfirmed);
            }
            tracing::warn!(
                service = self.outbox.name(),
                events = missing.len(),
                "the audit log lacks events; they are sent to it directly, check NATS"
            );
            self.append(&mut audit, missing).await?;
            // The same batch is compared again, because only the log's confirmation counts.
            return Ok(Comparison::More);
        }
        self.confirmed = next;
        self.positions.set(READER, next);
        Ok(Comparison::More)
    }

    /// Sends events to the log, in separate requests for each organization. If the log refuses one, fails
    /// after it has sent the others.
    async fn append(
        &self,
        audit: &mut IngestServiceClient<ServiceChannel>,
        events: Vec<&Delivery>,
    ) -> anyhow::Result<()> {
        let mut groups = BTreeMap::<_, Vec<&Delivery>>::new();
        for event in events {
            groups.entry(event.org_id).or_default().push(event);
        }
        let mut failure = Ok(());
        for chunk in groups.values().flat_map(|it| it.chunks(APPEND_BATCH)) {
            let envelopes = chunk.iter().map(|it| it.envelope.clone()).collect();
            let appended = audit.append(AppendRequest { envelopes }).await;
            if let Err(error) = appended.map_err(remote("audit")) {
                failure = Err(error.into());
            }
        }
        failure
    }

    /// Returns the age of an event by the time in its id (`UUIDv7`).
    fn age(&self, id: Uuid) -> Duration {
        let created = id.get_timestamp().map_or(0, |it| it.to_unix().0);
        let age = self.outbox.now().unix_timestamp() - i64::try_from(created).unwrap_or(0);
        Duration::from_secs(u64::try_from(age).unwrap_or(0))
    }

    /// Deletes old events that the log and all readers have, at most every 20 seconds.
    async fn delete_old(&mut self) -> anyhow::Result<()> {
        if self.deleted_at.is_some_and(|it| it.elapsed() < DELETE_INTERVAL) {
            return Ok(());
        }
        self.deleted_at = Some(Instant::now());
        let read = self.positions.lowest();
        let before = id::lower_bound(self.outbox.now() - RETENTION);
        let delete = async |tx: &mut Tx| cursor::delete_read(tx.conn(), read, before).await;
        while self.outbox.write_as_system(READER, delete).await? == cursor::DELETE_BATCH {}
        Ok(())
    }
}

/// Waits for a commit, but at most `idle`, and then for the shortest interval, so that commits under load are
/// compared together.
async fn pause(commit: impl Future<Output = ()>, idle: Duration) {
    // The time-out is the longest pause.
    let _ = tokio::time::timeout(idle, commit).await;
    tokio::time::sleep(INTERVAL).await;
}
