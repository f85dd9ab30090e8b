//! Transactions: what a call changes, its events and its first answer commit together.

use std::sync::Arc;

use api::{check::Check, event as pb};
use prost::{Message, Name};
use sqlx::{
    PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
    raw_sql,
};
use time::OffsetDateTime;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::{
    Result,
    access::confirm,
    call::{Account, Call, system, user},
    changed::Changed,
    clock::{Clock, timestamp},
    host::Guards,
    idempotency,
    key::{Key, Secret, random},
    outbox,
    topics::{Subscription, Topics},
};

/// A service's database.
#[derive(Clone)]
pub struct Db {
    name: &'static str,
    reads: PgPool,
    writes: PgPool,
    clock: Clock,
    committed: Arc<Notify>,
    topics: Topics,
    guards: Guards,
    /// Seals the first answers of calls with a `request_id`.
    answers_key: Secret,
}

/// One unit of work: its writes and its events commit together, or not at all.
pub struct Tx {
    lease: Lease,
    source: &'static str,
    actor: pb::Actor,
    origin: pb::Origin,
    committed: Arc<Notify>,
    /// The event that this work follows from, if it is a reaction; else its own primary one.
    parent: Option<Uuid>,
    /// Events that are written as the last thing before the commit.
    events: Vec<pb::Envelope>,
    /// Which events the caller is told of.
    pub(crate) told: Vec<Uuid>,
    /// Whether somebody waits for what this writes.
    wakes: bool,
    topics: Topics,
    /// Topics whose subscribers wake up after the commit.
    published: Vec<Uuid>,
    /// The one moment at which the whole unit happens.
    pub now: OffsetDateTime,
}

/// How many connections a service holds, in each of its two pools.
pub(crate) const CONNECTIONS_MAX: u32 = 8;

impl Db {
    /// The schema `name` of the database at `options`.
    pub(crate) fn new(
        name: &'static str,
        options: PgConnectOptions,
        clock: Clock,
        guards: Guards,
        key: &Key,
    ) -> Self {
        let options = options.application_name(name).options([
            ("search_path", name),
            ("statement_timeout", "5s"),
            ("lock_timeout", "2s"),
            ("idle_in_transaction_session_timeout", "10s"),
        ]);
        let pool = |options| {
            PgPoolOptions::new()
                .max_connections(CONNECTIONS_MAX)
                .acquire_timeout(std::time::Duration::from_secs(2))
                .max_lifetime(std::time::Duration::from_secs(30 * 60))
                // Costs a round trip per use; a broken connection shows itself by an error instead.
                .test_before_acquire(false)
                .connect_lazy_with(options)
        };
        let (reads, writes) = (pool(options.clone()), pool(options));
        let answers_key = key.derive("first answers");
        let (committed, topics) = Default::default();
        Self { name, reads, writes, clock, committed, topics, guards, answers_key }
    }

    /// The service.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// For reads outside a transaction.
    pub fn pool(&self) -> &PgPool {
        &self.reads
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.reads.close().await;
        self.writes.close().await;
    }

    /// Safety devices, on but in tests.
    pub(crate) fn guards(&self) -> Guards {
        self.guards
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The present moment.
    pub fn now(&self) -> OffsetDateTime {
        self.clock.now()
    }

    /// Resolves when this process has committed something for others to do, after the call.
    pub fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.committed.notified()
    }

    /// Wakes up after each commit of this process that published to this topic ([`Tx::publish`]).
    pub fn subscribe(&self, topic: Uuid) -> Subscription {
        self.topics.subscribe(topic)
    }

    /// Wakes whoever follows the outbox.
    pub(crate) fn committed(&self) -> &Notify {
        &self.committed
    }

    /// Runs the work of a call in a transaction and commits it. If the message carries a `request_id`
    /// that was used before, answers what the first call answered and does not run the work.
    pub async fn write<M, R>(
        &self,
        call: &Call<M>,
        work: impl AsyncFnOnce(&mut Tx) -> Result<R>,
    ) -> Result<R>
    where
        M: Message + Check,
        R: Message + Name + Default,
    {
        let key = idempotency::Key::of(&self.answers_key, call)?;
        let tx = self.begin(call.actor(), call.origin.clone(), None).await?;
        let once = async |tx: &mut Tx| {
            let Some(key) = key else {
                let response = work(tx).await?;
                confirm(call).await?;
                return Ok(response);
            };
            if let Some(first) = idempotency::claim(tx, &key).await? {
                return Ok(R::decode(&*first).map_err(anyhow::Error::from)?);
            }
            let response = work(tx).await?;
            idempotency::store(tx, &key, &response.encode_to_vec()).await?;
            confirm(call).await?;
            Ok(response)
        };
        let (response, told) = finish(tx, once).await?;
        call.wrote(told);
        Ok(response)
    }

    /// Runs work of the suite itself in a transaction: a reaction to the event `cause`, or a timer.
    pub async fn write_as_system<T>(
        &self,
        cause: &str,
        work: impl AsyncFnOnce(&mut Tx) -> Result<T>,
    ) -> Result<T> {
        let origin = pb::Origin { request_id: cause.to_owned(), ..Default::default() };
        let tx = self.begin(system(self.name), origin, Uuid::try_parse(cause).ok()).await?;
        Ok(finish(tx, work).await?.0)
    }

    /// Writes down, on behalf of whoever made a call, that it was refused: the change itself did not happen.
    pub(crate) async fn write_for(
        &self,
        (actor, origin): (pb::Actor, pb::Origin),
        work: impl AsyncFnOnce(&mut Tx) -> Result<()>,
    ) -> Result<()> {
        finish(self.begin(actor, origin, None).await?, work).await.map(|_| ())
    }

    /// Writes down where a reader stands: nothing waits for it, nobody is woken, and a power cut may lose
    /// it, because what is read again acts once.
    pub(crate) async fn jot(&self, work: impl AsyncFnOnce(&mut Tx) -> Result<()>) -> Result<()> {
        let tx = self.begin(system(self.name), pb::Origin::default(), None).await?;
        let jot = async |tx: &mut Tx| {
            sqlx::query!("set local synchronous_commit = off").execute(tx.conn()).await?;
            work(tx).await
        };
        finish(tx, jot).await.map(|_| ())
    }

    async fn begin(
        &self,
        actor: pb::Actor,
        origin: pb::Origin,
        parent: Option<Uuid>,
    ) -> Result<Tx> {
        let mut lease = Lease {
            connection: Some(self.writes.acquire().await?),
            guard: self.guards.clean_connections,
        };
        raw_sql("begin").execute(lease.connection()).await?;
        Ok(Tx {
            lease,
            source: self.name,
            actor,
            origin,
            committed: self.committed.clone(),
            parent,
            events: vec![],
            told: vec![],
            wakes: false,
            topics: self.topics.clone(),
            published: vec![],
            now: self.clock.now(),
        })
    }
}

/// Runs the work, writes its events, commits all of it, or takes it back. Answers which events there are.
async fn finish<T>(
    mut tx: Tx,
    work: impl AsyncFnOnce(&mut Tx) -> Result<T>,
) -> Result<(T, Vec<Uuid>)> {
    let mut outcome = work(&mut tx).await;
    let events = tx.take_events();
    if outcome.is_ok()
        && let Err(error) = outbox::write(tx.conn(), events).await
    {
        outcome = Err(error);
    }
    let end = if outcome.is_ok() { "commit" } else { "rollback" };
    let ended = raw_sql(end).execute(tx.conn()).await;
    if ended.is_ok() {
        tx.lease.give_back();
    }
    let value = outcome?;
    ended?;
    if tx.wakes {
        tx.committed.notify_waiters();
    }
    tx.topics.publish(&tx.published);
    Ok((value, std::mem::take(&mut tx.told)))
}

/// A connection on which a transaction is open. If it is dropped before the transaction has ended, because
/// its future was, the connection is closed: given back, it would take the next user's writes with it
/// (sqlx issue 4385).
struct Lease {
    connection: Option<PoolConnection<Postgres>>,
    /// Off only in a test that shows why it is needed.
    guard: bool,
}

impl Lease {
    fn connection(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("a lease holds its connection until it is given back")
    }

    fn give_back(&mut self) {
        self.connection = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.as_mut().filter(|_| self.guard) {
            connection.close_on_drop();
        }
    }
}

impl Tx {
    /// The connection to run SQL on.
    pub fn conn(&mut self) -> &mut PgConnection {
        self.lease.connection()
    }

    /// Whoever waits for something to do looks again once this has committed. Events and mails do so by
    /// themselves. A task that looks and finds nothing must not: it would wake itself for ever.
    pub fn wake(&mut self) {
        self.wakes = true;
    }

    /// Streams of this process that follow this object read again once this has committed.
    pub fn publish(&mut self, topic: Uuid) {
        self.published.push(topic);
    }

    /// From here on this account acts: for calls that themselves prove who calls, like signing in.
    pub fn act_as(&mut self, account: &Account) {
        self.actor = user(account);
    }

    /// Writes the event of a change, whose state has just been stored, and gives that state back. The first
    /// event of a piece of work is its primary one, and the others follow from it (AU-1, AU-2).
    pub fn emit<T>(&mut self, changed: Changed<T>) -> T {
        let (state, fact, following) = changed.into_parts();
        self.wake();
        self.told.push(fact.id);
        for fact in std::iter::once(fact).chain(following) {
            self.events.push(fact.envelope(pb::Envelope {
                source: self.source.to_owned(),
                actor: Some(self.actor.clone()),
                occur_time: Some(timestamp(self.now)),
                origin: Some(self.origin.clone()),
                salt: random()[..16].to_vec(),
                ..Default::default()
            }));
        }
        state
    }

    /// This event is the primary one of the work, although others are written before it.
    pub fn lead<T>(&mut self, changed: &Changed<T>) {
        self.parent.get_or_insert(changed.event_id());
    }

    /// The events of the work, each with what it follows from; the primary one is told first.
    fn take_events(&mut self) -> Vec<pb::Envelope> {
        let mut events = std::mem::take(&mut self.events);
        let first = events.first().and_then(|it| Uuid::try_parse(&it.id).ok());
        let parent = self.parent.or(first).unwrap_or_default();
        for event in &mut events {
            let id = parent.to_string();
            if event.id != id {
                event.parent_event_id = id;
            }
        }
        self.told.sort_by_key(|it| *it != parent);
        events
    }
}
