//! Reacting to what happened, here or in another service: at least once delivered, once acted on.

mod deferred;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::Pin,
    sync::Arc,
};

use api::event::Envelope;
use prost::{Message, Name};
use uuid::Uuid;

use crate::{
    Result,
    db::{Db, Tx},
    outbox::Delivery,
};

type Boxed<'t> = Pin<Box<dyn Future<Output = Result<()>> + Send + 't>>;
type React = Arc<dyn for<'t> Fn(&'t mut Tx, &Envelope) -> Boxed<'t> + Send + Sync>;

/// Whoever keeps every event: the audit log.
#[tonic::async_trait]
pub trait Record: Send + Sync + 'static {
    /// Keeps events in their order, each once, however often it comes. Answers the ids of those that it
    /// cannot keep yet, because one before them is missing.
    async fn record(&self, tx: &mut Tx, batch: &[Delivery]) -> Result<Vec<Uuid>>;
}

/// An `async fn(&mut Tx, E) -> Result<()>`.
pub trait Reaction<'t, E>: Send + Sync + 'static {
    /// What it returns.
    type Future: Future<Output = Result<()>> + Send + 't;
    /// Calls it.
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

/// What one service does with events.
#[derive(Clone)]
pub struct Subscriber {
    pub(crate) db: Db,
    what: What,
}

#[derive(Clone)]
enum What {
    /// Reactions, by event.
    React(BTreeMap<String, Vec<React>>),
    /// Keeps every event, in batches.
    Record(Arc<dyn Record>),
}

/// Outcome of a batch.
#[derive(Default)]
pub(crate) struct Delivered {
    /// Number of events, from the first one on, that need no further delivery but for `held`.
    pub(crate) done: usize,
    /// Events among them that the log takes later, because one before them is missing.
    pub(crate) held: Vec<Uuid>,
    /// Failure that ended the batch: nobody's events can be acted on, or set aside.
    pub(crate) failure: Option<crate::Error>,
}

impl Delivered {
    fn failed(done: usize, error: crate::Error) -> Self {
        Self { done, failure: Some(error), ..Self::default() }
    }
}

/// Number of failures after which a reaction's event becomes a dead letter.
pub(crate) const ATTEMPTS_MAX: u32 = 8;

impl Subscriber {
    pub(crate) fn reacting(db: Db) -> Self {
        Self { db, what: What::React(BTreeMap::new()) }
    }

    pub(crate) fn recording(db: Db, record: Arc<dyn Record>) -> Self {
        Self { db, what: What::Record(record) }
    }

    pub(crate) fn on<E, R>(&mut self, reaction: R)
    where
        E: Message + Name + Default + 'static,
        R: for<'t> Reaction<'t, E>,
    {
        let What::React(reactions) = &mut self.what else { return };
        let reaction = Arc::new(reaction);
        let react: React = Arc::new(move |tx, envelope| {
            let body = envelope.event.as_ref().map(|it| it.value.as_slice()).unwrap_or_default();
            match E::decode(body) {
                Ok(event) => Box::pin(reaction.react(tx, event)),
                Err(error) => Box::pin(async { Err(anyhow::Error::from(error).into()) }),
            }
        });
        reactions.entry(E::full_name()).or_default().push(react);
    }

    pub(crate) fn on_each<R>(&mut self, names: impl IntoIterator<Item = String>, reaction: R)
    where
        R: for<'t> Reaction<'t, Envelope>,
    {
        let What::React(reactions) = &mut self.what else { return };
        let reaction = Arc::new(reaction);
        let react: React =
            Arc::new(move |tx, envelope| Box::pin(reaction.react(tx, envelope.clone())));
        for name in names {
            reactions.entry(name).or_default().push(react.clone());
        }
    }

    /// The events that it wants; `None` means all.
    pub(crate) fn wants(&self) -> Option<Vec<&str>> {
        match &self.what {
            What::React(reactions) => Some(reactions.keys().map(String::as_str).collect()),
            What::Record(_) => None,
        }
    }

    /// Whether it does something with an event of this name.
    pub(crate) fn takes(&self, name: &str) -> bool {
        match &self.what {
            What::React(reactions) => reactions.contains_key(name),
            What::Record(_) => true,
        }
    }

    /// Acts on a batch. An event on which a reaction fails is set aside with the later ones of its group, so
    /// that the events of other groups go on.
    pub(crate) async fn deliver(&self, batch: &[Delivery]) -> Delivered {
        if !batch.iter().any(|it| self.takes(&it.name)) {
            return Delivered { done: batch.len(), ..Delivered::default() };
        }
        let waiting = match deferred::groups(&self.db).await {
            Ok(waiting) => waiting,
            Err(error) => return Delivered::failed(0, error),
        };
        match &self.what {
            What::Record(record) => self.deliver_to_log(&**record, batch, &waiting).await,
            What::React(_) => self.deliver_to_reactions(batch, waiting).await,
        }
    }

    async fn deliver_to_reactions(
        &self,
        batch: &[Delivery],
        mut waiting: BTreeSet<Uuid>,
    ) -> Delivered {
        for (done, event) in batch.iter().enumerate().filter(|it| self.takes(&it.1.name)) {
            let failure = if !waiting.is_empty() && waiting.contains(&self.group(event)) {
                None
            } else if let Err(error) = self.react(event).await {
                waiting.insert(self.group(event));
                Some(error)
            } else {
                continue;
            };
            if let Err(error) = self.set_aside(event, failure.as_ref()).await {
                return Delivered::failed(done, error);
            }
        }
        Delivered { done: batch.len(), ..Delivered::default() }
    }

    /// Records a batch whole; if that fails, each group by itself, and sets the failing ones aside.
    async fn deliver_to_log(
        &self,
        record: &dyn Record,
        batch: &[Delivery],
        waiting: &BTreeSet<Uuid>,
    ) -> Delivered {
        let groups = self.groups_of(batch);
        if waiting.is_empty() {
            match self.record(record, batch).await {
                Ok(held) => return Delivered { done: batch.len(), held, failure: None },
                Err(error) if groups.len() == 1 => return Delivered::failed(0, error),
                Err(_) => {}
            }
        }
        let (mut recorded, mut held, mut failed) = (0, vec![], vec![]);
        for (group, events) in groups {
            if waiting.contains(&group) {
                failed.push((events, None));
                continue;
            }
            match self.record(record, &events).await {
                Ok(more) => (recorded, held) = (recorded + 1, [held, more].concat()),
                Err(error) => failed.push((events, Some(error))),
            }
        }
        // A failure of all groups is not one tenant's: the whole batch comes again.
        let general = failed.iter_mut().find_map(|it| it.1.take_if(|_| recorded == 0));
        if let Some(error) = general {
            return Delivered::failed(0, error);
        }
        for (events, mut error) in failed {
            for event in events {
                if let Err(error) = self.set_aside(&event, error.take().as_ref()).await {
                    return Delivered::failed(0, error);
                }
            }
        }
        Delivered { done: batch.len(), held, failure: None }
    }

    async fn record(&self, record: &dyn Record, events: &[Delivery]) -> Result<Vec<Uuid>> {
        self.db.write_as_system("log", async |tx: &mut Tx| record.record(tx, events).await).await
    }

    /// Sets an event aside, so that it is tried later: after a failure, or in its turn.
    pub(crate) async fn set_aside(
        &self,
        event: &Delivery,
        failure: Option<&crate::Error>,
    ) -> Result<()> {
        if let Some(error) = failure {
            tracing::warn!(event = %event.id, name = event.name, ?error, "an event is set aside");
        }
        deferred::put(&self.db, self.group(event), event, failure).await
    }

    /// Scope within which events keep their order: an organization, or a single account. The log orders
    /// all events without an organization among themselves.
    fn group(&self, event: &Delivery) -> Uuid {
        match (&self.what, event.org_id) {
            (_, Some(org_id)) => org_id,
            (What::Record(_), None) => Uuid::nil(),
            (What::React(_), None) => event.object_id(),
        }
    }

    /// Events by group, each group in the order of the batch.
    fn groups_of(&self, batch: &[Delivery]) -> BTreeMap<Uuid, Vec<Delivery>> {
        let mut groups = BTreeMap::<Uuid, Vec<Delivery>>::new();
        for event in batch {
            groups.entry(self.group(event)).or_default().push(event.clone());
        }
        groups
    }

    async fn react(&self, event: &Delivery) -> Result<()> {
        let work = async |tx: &mut Tx| self.act(tx, event).await;
        self.db.write_as_system(&event.id.to_string(), work).await
    }

    /// Does what follows from an event, unless that was done before.
    async fn act(&self, tx: &mut Tx, event: &Delivery) -> Result<()> {
        match &self.what {
            What::Record(record) => match record.record(tx, std::slice::from_ref(event)).await? {
                held if held.is_empty() => Ok(()),
                _ => Err(anyhow::anyhow!("an event before it is missing in the log").into()),
            },
            What::React(reactions) => {
                let Some(reactions) = reactions.get(&event.name) else { return Ok(()) };
                let envelope = Envelope::decode(&*event.envelope).map_err(anyhow::Error::from)?;
                if first_delivery(tx, event).await? {
                    for react in reactions {
                        react(tx, &envelope).await?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Makes an event a dead letter, for an operator to look at: no reaction to it is tried any more.
    async fn bury(&self, tx: &mut Tx, event: &Delivery, error: &crate::Error) -> Result<()> {
        tracing::error!(event = %event.id, name = event.name, ?error, "an event is a dead letter");
        let (text, now) = (format!("{error:?}"), tx.now);
        sqlx::query!(
            "insert into dead_letter (event_id, type, envelope, error, died_at)
             values ($1, $2, $3, $4, $5) on conflict do nothing",
            event.id,
            event.name,
            event.envelope,
            text,
            now,
        )
        .execute(tx.conn())
        .await?;
        first_delivery(tx, event).await.map(|_| ())
    }
}

/// Whether an event is new here; it no longer is once the transaction commits.
async fn first_delivery(tx: &mut Tx, event: &Delivery) -> Result<bool> {
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
