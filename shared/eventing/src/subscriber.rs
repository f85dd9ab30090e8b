//! Subscribers: a service with its reactions to events, or the audit log, which records all events. Each
//! event is delivered at least once and handled once.

mod deferred;
mod not_ready;
mod span;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::Pin,
    sync::Arc,
};

use api::{error::Reason, event::Envelope};
use chassis::{Db, Error, Result, Tx};
use prost::{Message, Name};
use tokio::sync::Notify;
use tracing::Instrument;
use uuid::Uuid;

pub use self::not_ready::NotReady;
use crate::{delivery::Delivery, pause::PauseState};

type ReactionFuture<'t> = Pin<Box<dyn Future<Output = Result<()>> + Send + 't>>;
type BoxedReaction = Arc<dyn for<'t> Fn(&'t mut Tx, &Envelope) -> ReactionFuture<'t> + Send + Sync>;

/// Recorder of all events: the audit log.
#[tonic::async_trait]
pub trait EventSink: Send + Sync + 'static {
    /// Records events in their order, and each only once. Returns those that it cannot record yet.
    async fn record(&self, tx: &mut Tx, batch: &[Delivery]) -> Result<Unrecorded>;
}

/// Ids of the events of a batch that a sink did not record.
#[derive(Debug, Default)]
pub struct Unrecorded {
    /// Events whose predecessor is missing. They need a redelivery.
    pub out_of_order: Vec<Uuid>,
    /// Events of a group ([`Subscriber::group`]) that cannot be recorded until an operator has repaired its
    /// data. They are deferred, so that other groups are not delayed.
    pub blocked: Vec<Uuid>,
}

/// A reaction to events of type `E`: an `async fn(&mut Tx, E) -> Result<()>`.
pub trait Reaction<'t, E>: Send + Sync + 'static {
    /// Type of its future.
    type Future: Future<Output = Result<()>> + Send + 't;
    /// Handles an event in a transaction, which also records it in the inbox, the table of handled events.
    fn react(&self, tx: &'t mut Tx, event: E) -> Self::Future;
}

impl<'t, E, F, Fut> Reaction<'t, E> for F
where
    F: Fn(&'t mut Tx, E) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<()>> + Send + 't,
{
    type Future = Fut;
    fn react(&self, tx: &'t mut Tx, event: E) -> Fut {
        self(tx, event)
    }
}

/// The handler of events of one service.
#[derive(Clone)]
pub struct Subscriber {
    /// Database of the service, with its inbox.
    pub db: Db,
    handler: Handler,
    pause: Arc<PauseState>,
    /// Notified when an event is deferred.
    deferred: Arc<Notify>,
}

#[derive(Clone)]
enum Handler {
    /// Reactions by event type.
    Reactions(BTreeMap<String, Vec<BoxedReaction>>),
    /// Records all events in batches.
    Sink(Arc<dyn EventSink>),
}

/// Outcome of a batch.
#[derive(Default)]
pub(crate) struct BatchOutcome {
    /// Number of events, counted from the first one, that are handled or deferred.
    pub(crate) completed: usize,
    /// Ids of completed events that the audit log did not record, because the event before them is missing.
    /// They need a redelivery.
    pub(crate) out_of_order: Vec<Uuid>,
    /// Failure that concerns all groups ([`Subscriber::group`]), for example of the database. The rest of the
    /// batch needs a redelivery.
    pub(crate) failure: Option<Error>,
}

impl BatchOutcome {
    fn failed(completed: usize, error: Error) -> Self {
        Self { completed, failure: Some(error), ..Self::default() }
    }
}

/// Failure of an event of a damaged log.
const BLOCKED: &str = "the log of this organization is in quarantine";

/// Failure of an event whose predecessor is missing.
pub(crate) const OUT_OF_ORDER: &str = "the audit log has not recorded the event before it";

/// Number of failures after which an event becomes a dead letter.
pub(crate) const ATTEMPTS_MAX: u32 = 8;

impl Subscriber {
    /// Creates a subscriber without reactions.
    pub fn reacting(db: Db) -> Self {
        Self::new(db, Handler::Reactions(BTreeMap::new()))
    }

    /// Creates a subscriber that records all events.
    pub fn recording(db: Db, sink: Arc<dyn EventSink>) -> Self {
        Self::new(db, Handler::Sink(sink))
    }

    fn new(db: Db, handler: Handler) -> Self {
        Self { db, handler, pause: Arc::default(), deferred: Arc::default() }
    }

    /// Adds a reaction to events of type `E`. A recording subscriber ignores it.
    pub fn on<E, R>(&mut self, reaction: R)
    where
        E: Message + Name + Default + 'static,
        R: for<'t> Reaction<'t, E>,
    {
        let Handler::Reactions(reactions) = &mut self.handler else { return };
        let reaction = Arc::new(reaction);
        let react: BoxedReaction = Arc::new(move |tx, envelope| {
            let body = envelope.event.as_ref().map(|it| it.value.as_slice()).unwrap_or_default();
            match E::decode(body) {
                Ok(event) => Box::pin(reaction.react(tx, event)),
                Err(error) => Box::pin(async { Err(anyhow::Error::from(error).into()) }),
            }
        });
        reactions.entry(E::full_name()).or_default().push(react);
    }

    /// Adds a reaction to events of these types, which gets the envelope. A recording subscriber ignores it.
    pub fn on_each<R>(&mut self, event_types: impl IntoIterator<Item = String>, reaction: R)
    where
        R: for<'t> Reaction<'t, Envelope>,
    {
        let Handler::Reactions(reactions) = &mut self.handler else { return };
        let reaction = Arc::new(reaction);
        let react: BoxedReaction =
            Arc::new(move |tx, envelope| Box::pin(reaction.react(tx, envelope.clone())));
        for event_type in event_types {
            reactions.entry(event_type).or_default().push(react.clone());
        }
    }

    /// Returns the types of the events that have reactions; `None` for a recording subscriber.
    pub fn event_types(&self) -> Option<Vec<&str>> {
        match &self.handler {
            Handler::Reactions(reactions) => Some(reactions.keys().map(String::as_str).collect()),
            Handler::Sink(_) => None,
        }
    }

    /// True if an operator has paused the reactions. A recording subscriber cannot be paused.
    pub(crate) async fn is_paused(&self) -> Result<bool> {
        match &self.handler {
            Handler::Reactions(_) => self.pause.is_paused(&self.db).await,
            Handler::Sink(_) => Ok(false),
        }
    }

    /// True if events of this type have a reaction or are recorded.
    pub(crate) fn handles(&self, event_type: &str) -> bool {
        match &self.handler {
            Handler::Reactions(reactions) => reactions.contains_key(event_type),
            Handler::Sink(_) => true,
        }
    }

    /// Handles a batch. An event whose handling fails is deferred together with the later ones of its group
    /// ([`Self::group`]), so that it does not delay other groups.
    pub(crate) async fn deliver(&self, batch: &[Delivery]) -> BatchOutcome {
        if !batch.iter().any(|it| self.handles(&it.event_type)) {
            return BatchOutcome { completed: batch.len(), ..BatchOutcome::default() };
        }
        let deferred_groups = match deferred::groups(&self.db).await {
            Ok(groups) => groups,
            Err(error) => return BatchOutcome::failed(0, error),
        };
        match &self.handler {
            Handler::Sink(sink) => self.deliver_to_sink(&**sink, batch, &deferred_groups).await,
            Handler::Reactions(_) => self.deliver_to_reactions(batch, deferred_groups).await,
        }
    }

    async fn deliver_to_reactions(
        &self,
        batch: &[Delivery],
        mut deferred_groups: BTreeSet<Uuid>,
    ) -> BatchOutcome {
        for (index, event) in batch.iter().enumerate() {
            if !self.handles(&event.event_type) {
                continue;
            }
            let is_blocked =
                !deferred_groups.is_empty() && deferred_groups.contains(&self.group(event));
            let failure = if is_blocked {
                None
            } else if let Err(error) = self.handle_in_transaction(event).await {
                deferred_groups.insert(self.group(event));
                Some(error)
            } else {
                continue;
            };
            if let Err(error) = self.defer(event, failure.as_ref()).await {
                return BatchOutcome::failed(index, error);
            }
        }
        BatchOutcome { completed: batch.len(), ..BatchOutcome::default() }
    }

    /// Defers the events of groups that have deferred ones, and records the others in one transaction. If
    /// that fails, records each group in a transaction of its own and defers the groups that fail.
    async fn deliver_to_sink(
        &self,
        sink: &dyn EventSink,
        batch: &[Delivery],
        deferred_groups: &BTreeSet<Uuid>,
    ) -> BatchOutcome {
        match self.try_deliver_to_sink(sink, batch, deferred_groups).await {
            Ok(out_of_order) => {
                BatchOutcome { completed: batch.len(), out_of_order, failure: None }
            }
            // The whole batch is redelivered; events that are recorded or deferred are skipped then.
            Err(error) => BatchOutcome::failed(0, error),
        }
    }

    /// Returns the ids of the events that need a redelivery.
    async fn try_deliver_to_sink(
        &self,
        sink: &dyn EventSink,
        batch: &[Delivery],
        deferred_groups: &BTreeSet<Uuid>,
    ) -> Result<Vec<Uuid>> {
        let is_waiting = |event: &&Delivery| deferred_groups.contains(&self.group(event));
        for event in batch.iter().filter(is_waiting) {
            self.defer(event, None).await?;
        }
        let ready: Vec<Delivery> = batch.iter().filter(|it| !is_waiting(it)).cloned().collect();
        if ready.is_empty() {
            return Ok(vec![]);
        }
        match self.record(sink, &ready).await {
            Ok(out_of_order) => return Ok(out_of_order),
            Err(error) if concerns_all_groups(&error) => return Err(error),
            Err(_) => {}
        }
        let mut out_of_order = vec![];
        for events in self.groups_of(&ready).into_values() {
            let mut failure = match self.record(sink, &events).await {
                Ok(ids) => {
                    out_of_order.extend(ids);
                    continue;
                }
                Err(error) if concerns_all_groups(&error) => return Err(error),
                Err(error) => Some(error),
            };
            // The failure counts for the first event; the later ones of the group wait for it.
            for event in &events {
                self.defer(event, failure.take().as_ref()).await?;
            }
        }
        Ok(out_of_order)
    }

    /// Records events and defers the blocked ones. Returns the ids of those that need a redelivery.
    async fn record(&self, sink: &dyn EventSink, events: &[Delivery]) -> Result<Vec<Uuid>> {
        let record = async |tx: &mut Tx| sink.record(tx, events).await;
        let recorded = self.db.write_as_system("log", record).instrument(self.batch_span(events));
        let Unrecorded { out_of_order, blocked } = recorded.await?;
        self.defer_blocked(events, &blocked).await?;
        Ok(out_of_order)
    }

    /// Defers the events of a batch that a sink returned as [`Unrecorded::blocked`].
    pub async fn defer_blocked(&self, batch: &[Delivery], blocked: &[Uuid]) -> Result<()> {
        for event in batch.iter().filter(|it| blocked.contains(&it.id)) {
            self.defer(event, Some(&anyhow::anyhow!(BLOCKED).into())).await?;
        }
        Ok(())
    }

    /// Returns the group of an event, within which events are handled in order: its organization, or the
    /// object of an event without one. The audit log has one group for all events without an organization.
    fn group(&self, event: &Delivery) -> Uuid {
        match (&self.handler, event.org_id) {
            (_, Some(org_id)) => org_id,
            (Handler::Sink(_), None) => Uuid::nil(),
            (Handler::Reactions(_), None) => event.object_id(),
        }
    }

    /// Splits a batch into groups, each in the order of the batch.
    fn groups_of(&self, batch: &[Delivery]) -> BTreeMap<Uuid, Vec<Delivery>> {
        let mut groups = BTreeMap::<Uuid, Vec<Delivery>>::new();
        for event in batch {
            groups.entry(self.group(event)).or_default().push(event.clone());
        }
        groups
    }

    async fn handle_in_transaction(&self, event: &Delivery) -> Result<()> {
        let work = async |tx: &mut Tx| self.handle(tx, event).await;
        let span = self.span(event);
        self.db.write_as_system(&event.id.to_string(), work).instrument(span).await
    }

    /// Handles one event, unless the inbox has it.
    async fn handle(&self, tx: &mut Tx, event: &Delivery) -> Result<()> {
        match &self.handler {
            Handler::Sink(sink) => {
                let unrecorded = sink.record(tx, std::slice::from_ref(event)).await?;
                if !unrecorded.blocked.is_empty() {
                    return Err(anyhow::anyhow!(BLOCKED).into());
                }
                if !unrecorded.out_of_order.is_empty() {
                    return Err(anyhow::anyhow!(OUT_OF_ORDER).into());
                }
                Ok(())
            }
            Handler::Reactions(reactions) => {
                let Some(reactions) = reactions.get(&event.event_type) else { return Ok(()) };
                let envelope = Envelope::decode(&*event.envelope).map_err(anyhow::Error::from)?;
                if insert_into_inbox(tx, event).await? {
                    for react in reactions {
                        react(tx, &envelope).await?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Stores an event as a dead letter, for an operator, and in the inbox, so that it is not handled any
    /// more.
    async fn dead_letter(&self, tx: &mut Tx, event: &Delivery, error: &Error) -> Result<()> {
        let event_type = &event.event_type;
        tracing::error!(event = %event.id, event_type, ?error, "an event failed and is a dead letter now");
        let text = format!("{error:?}");
        let now = tx.now;
        sqlx::query!(
            "insert into dead_letter (event_id, type, envelope, error, died_at)
             values ($1, $2, $3, $4, $5) on conflict do nothing",
            event.id,
            event.event_type,
            event.envelope,
            text,
            now,
        )
        .execute(tx.conn())
        .await?;
        insert_into_inbox(tx, event).await.map(|_| ())
    }
}

/// True if a failure is one of the database, and not of the data of one group: it is unreachable, overloaded
/// or restarting, or a lock was not free.
fn concerns_all_groups(error: &Error) -> bool {
    matches!(error.reason(), Reason::Conflict | Reason::DependencyUnavailable | Reason::Overloaded)
}

/// Inserts an event into the inbox. Returns false if the inbox already has it.
async fn insert_into_inbox(tx: &mut Tx, event: &Delivery) -> Result<bool> {
    let now = tx.now;
    let inserted = sqlx::query!(
        "insert into inbox (event_id, received_at) values ($1, $2) on conflict do nothing",
        event.id,
        now,
    )
    .execute(tx.conn())
    .await?;
    Ok(inserted.rows_affected() == 1)
}
