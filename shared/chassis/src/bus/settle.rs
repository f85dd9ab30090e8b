//! Settling one outbox with the audit log: what the log has is done with, what it lacks is handed to it
//! directly, and what everybody has read goes after a while. The comparison is by id, over all that the
//! outbox keeps, so nothing depends on what the broker or a cursor says.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use api::audit::{AppendRequest, ConfirmRequest, ingest_service_client::IngestServiceClient};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::BATCH;
use crate::{
    db::{Db, Tx},
    error::remote,
    id,
    link::Link,
    outbox::{self, Cursor, Delivery},
};

/// How often an outbox is settled. Bounds how long an event that the log missed holds back later ones.
const INTERVAL: Duration = Duration::from_secs(1);

/// How often everything that is kept is compared again: a log that was restored from a backup lacks what it
/// had confirmed.
const AGAIN: Duration = Duration::from_secs(3600);

/// How long events are kept after the log has them, so that a broker that lost its disk gets them again.
const KEPT: time::Duration = time::Duration::days(7);

/// How far those who follow an outbox in this process have come.
#[derive(Clone, Default)]
pub(super) struct Followers(Arc<Mutex<BTreeMap<String, Cursor>>>);

impl Followers {
    /// A follower stands here.
    pub(super) fn at(&self, name: &str, cursor: Cursor) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(name.to_owned(), cursor);
    }

    /// Where the last of them stands.
    fn last(&self) -> Cursor {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().min().copied().unwrap_or_default()
    }
}

/// Settles one outbox.
pub(super) struct Settler {
    outbox: Db,
    audit: Link,
    followers: Followers,
    /// How long an event may be on its way before it is handed over directly.
    patience: Duration,
    /// Everything before it is in the log.
    settled: Cursor,
    began: Instant,
}

impl Settler {
    pub(super) fn new(outbox: Db, audit: Link, followers: Followers, patience: Duration) -> Self {
        followers.at("settler", Cursor::default());
        let (settled, began) = (Cursor::default(), Instant::now());
        Self { outbox, audit, followers, patience, settled, began }
    }

    /// Settles until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
            if self.began.elapsed() > AGAIN {
                (self.settled, self.began) = (Cursor::default(), Instant::now());
            }
            loop {
                match self.step().await {
                    Ok(true) if !stop.is_cancelled() => {}
                    Ok(_) => break,
                    Err(error) => {
                        let (name, error) = (self.outbox.name(), format!("{error:#}"));
                        tracing::warn!(
                            name,
                            error,
                            "the audit log confirms nothing; events are kept"
                        );
                        break;
                    }
                }
            }
        }
    }

    /// Compares a batch. Answers whether there may be more.
    async fn step(&mut self) -> anyhow::Result<bool> {
        let (batch, next) = outbox::read(&self.outbox, self.settled, BATCH).await?;
        if batch.is_empty() {
            self.forget().await?;
            return Ok(false);
        }
        let mut audit = IngestServiceClient::new(self.audit.clone());
        let event_ids = batch.iter().map(|it| it.id.to_string()).collect();
        let answer = audit.confirm(ConfirmRequest { event_ids }).await.map_err(remote("audit"))?;
        let missing = answer.into_inner().missing;
        let missing: Vec<&Delivery> =
            missing.iter().filter_map(|it| batch.get(usize::try_from(*it).ok()?)).collect();
        if let Some(oldest) = missing.first() {
            if self.age(oldest.id) < self.patience {
                return Ok(false);
            }
            tracing::warn!(
                name = self.outbox.name(),
                events = missing.len(),
                "the log lacks events; they are handed to it directly"
            );
            self.append(&mut audit, missing).await?;
            // Looked at once more: only what is confirmed is settled.
            return Ok(true);
        }
        self.settled = next;
        self.followers.at("settler", next);
        Ok(true)
    }

    /// Hands events to the log, those of each organization by themselves: one that the log refuses fails
    /// only after the others.
    async fn append(
        &self,
        audit: &mut IngestServiceClient<Link>,
        events: Vec<&Delivery>,
    ) -> anyhow::Result<()> {
        let mut groups = BTreeMap::<_, Vec<&Delivery>>::new();
        for event in events {
            groups.entry(event.org_id).or_default().push(event);
        }
        let mut failure = Ok(());
        for chunk in groups.values().flat_map(|it| it.chunks(100)) {
            let envelopes = chunk.iter().map(|it| it.envelope.clone()).collect();
            let appended = audit.append(AppendRequest { envelopes }).await;
            if let Err(error) = appended.map_err(remote("audit")) {
                failure = Err(error.into());
            }
        }
        failure
    }

    fn age(&self, id: Uuid) -> Duration {
        let made = id.get_timestamp().map_or(0, |it| it.to_unix().0);
        let age = self.outbox.now().unix_timestamp() - i64::try_from(made).unwrap_or(0);
        Duration::from_secs(u64::try_from(age).unwrap_or(0))
    }

    /// Forgets what is old, in the log, and behind everybody who follows.
    async fn forget(&self) -> anyhow::Result<()> {
        let (read, before) = (self.followers.last(), self.outbox.now() - KEPT);
        let work = async |tx: &mut Tx| outbox::forget(tx.conn(), read, id::first_at(before)).await;
        while self.outbox.write_as_system("settler", work).await? == outbox::FORGOTTEN_AT_ONCE {}
        Ok(())
    }
}
