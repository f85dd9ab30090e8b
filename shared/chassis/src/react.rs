//! Reacting to what happened, here or in another service: at least once delivered, once acted on.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc};

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

/// What became of a batch.
#[derive(Default)]
pub(crate) struct Delivered {
    /// How many events were dealt with before one failed.
    pub(crate) done: usize,
    /// Among them, those that have to come again.
    pub(crate) held: Vec<Uuid>,
    /// Why one failed.
    pub(crate) failure: Option<crate::Error>,
}

/// After so many failures a reaction gives an event up, so that it does not block the ones behind it.
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

    /// Acts on a batch.
    pub(crate) async fn deliver(&self, batch: &[Delivery]) -> Delivered {
        match &self.what {
            What::Record(record) => {
                let work = async |tx: &mut Tx| record.record(tx, batch).await;
                match self.db.write_as_system("log", work).await {
                    Ok(held) => Delivered { done: batch.len(), held, failure: None },
                    Err(error) => Delivered { failure: Some(error), ..Delivered::default() },
                }
            }
            What::React(reactions) => {
                for (done, event) in batch.iter().enumerate() {
                    let Some(reactions) = reactions.get(&event.name) else { continue };
                    if let Err(error) = self.react(reactions, event).await {
                        return Delivered { done, failure: Some(error), ..Delivered::default() };
                    }
                }
                Delivered { done: batch.len(), ..Delivered::default() }
            }
        }
    }

    async fn react(&self, reactions: &[React], event: &Delivery) -> Result<()> {
        let envelope = Envelope::decode(&*event.envelope).map_err(anyhow::Error::from)?;
        let work = async |tx: &mut Tx| {
            if first_delivery(tx, event).await? {
                for react in reactions {
                    react(tx, &envelope).await?;
                }
            }
            Ok(())
        };
        self.db.write_as_system(&event.id.to_string(), work).await
    }

    /// Gives an event up: sets it aside for an operator, so that the ones behind it go on.
    pub(crate) async fn bury(&self, event: &Delivery, error: &crate::Error) -> Result<()> {
        tracing::error!(event = %event.id, name = event.name, %error, "a reaction gave an event up");
        let text = format!("{error:?}");
        let work = async |tx: &mut Tx| {
            let now = tx.now;
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
            first_delivery(tx, event).await?;
            Ok(())
        };
        self.db.write_as_system(&event.id.to_string(), work).await
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
