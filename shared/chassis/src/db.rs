//! Transactions: the changes of a call, its events and its stored response commit together.

mod connection;
pub mod deployment_key;
mod failover;
mod open_connections;
mod pool;
mod tx;

use std::{sync::Arc, time::Duration};

use api::{check::Check, event as pb};
use prost::{Message, Name};
use sqlx::{PgPool, postgres::PgConnectOptions, raw_sql};
use time::OffsetDateTime;
use tokio::sync::Notify;
use tracing::{Instrument, Span};
use uuid::Uuid;

pub use self::open_connections::Connections;
use self::{connection::TxConnection, failover::Failover, pool::LazyPools};
use crate::{
    Result, access,
    call::{Call, operator_actor, system_actor},
    clock::Clock,
    fault_injection::FaultInjection,
    idempotency,
    key::{DerivedKeys, Key},
    outbox,
    topics::{Subscription, Topics},
    trace,
};

/// The database of a service: its schema, with a connection pool for reads and one for transactions.
#[derive(Clone)]
pub struct Db {
    name: &'static str,
    pools: LazyPools,
    clock: Clock,
    /// Notified after commits that wake background jobs.
    committed: Arc<Notify>,
    /// Shortest interval at which jobs look for work without a wake-up.
    poll_interval_min: Duration,
    topics: Topics,
    faults: FaultInjection,
    failover: Failover,
    /// Keys of stored responses.
    response_keys: DerivedKeys,
    key_use: deployment_key::KeyUse,
}

/// Interval at which jobs look for work without a wake-up if no other process queues work: an idle
/// installation runs few statements.
const ONLY_PROCESS_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// An open transaction. Its writes and its events commit together, or not at all.
pub struct Tx {
    connection: TxConnection,
    source: &'static str,
    actor: pb::Actor,
    origin: pb::Origin,
    committed: Arc<Notify>,
    failover: Failover,
    /// Parent of the events: the event that is reacted to, or the primary event set by [`Self::set_primary`].
    parent: Option<Uuid>,
    /// Event of an earlier transaction from which the primary event follows.
    cause: Option<Uuid>,
    /// Events, to be written to the outbox just before the commit.
    events: Vec<pb::Envelope>,
    /// Ids of the events for the response's metadata: of each change the first event.
    pub(crate) emitted_ids: Vec<Uuid>,
    /// True if the commit wakes background jobs.
    wakes_jobs: bool,
    topics: Topics,
    /// Topics to be notified after the commit.
    published: Vec<Uuid>,
    /// Time of the transaction. All its writes and events have this time.
    pub now: OffsetDateTime,
}

impl Db {
    /// Opens the schema `name` of a database, with at most `connections_max` connections. They are made on
    /// first use.
    pub fn new(
        name: &'static str,
        options: PgConnectOptions,
        clock: Clock,
        faults: FaultInjection,
        key: &Key,
        connections_max: u32,
    ) -> Self {
        let (statement_timeout, lock_timeout) =
            if faults.long_lock_waits { ("30s", "30s") } else { ("5s", "2s") };
        let options = options.application_name(name).options([
            ("search_path", name),
            ("statement_timeout", statement_timeout),
            ("lock_timeout", lock_timeout),
            ("idle_in_transaction_session_timeout", "10s"),
            // Without these the server keeps the locks of a machine that lost its power or its network for
            // two hours, among them that of the relay. No effect on Unix sockets.
            ("tcp_keepalives_idle", "5"),
            ("tcp_keepalives_interval", "2"),
            ("tcp_keepalives_count", "3"),
            ("tcp_user_timeout", "10s"),
        ]);
        let failover = Failover::default();
        let pools = LazyPools::new(name, options, failover.clone(), connections_max);
        Self {
            name,
            pools,
            clock,
            committed: Arc::default(),
            poll_interval_min: Duration::ZERO,
            topics: Topics::default(),
            faults,
            failover,
            response_keys: key.derive(deployment_key::RESPONSES),
            key_use: deployment_key::KeyUse::default(),
        }
    }

    /// Makes jobs look for work less often, because only this process queues work, and so wakes them.
    #[must_use]
    pub fn as_only_process(mut self) -> Self {
        self.poll_interval_min = ONLY_PROCESS_POLL_INTERVAL;
        self
    }

    /// Returns the interval at which a job looks for work without a wake-up: `interval`, or at least five
    /// seconds if no other process queues work.
    pub fn poll_interval(&self, interval: Duration) -> Duration {
        interval.max(self.poll_interval_min)
    }

    /// Records that the server is read-only or has ended: the pools open new connections, which can reach
    /// another server.
    pub fn replace_connections(&self) {
        self.failover.record();
    }

    /// Sets the server of new connections, after a fail-over. Open ones are not used again.
    pub fn set_server(&self, host: &str, port: u16) {
        self.pools.set_server(host, port);
        self.failover.record();
    }

    /// Sets the largest number of connections. No effect after the first use of the database.
    pub fn set_connections_max(&self, max: u32) {
        self.pools.set_connections_max(max);
    }

    /// Name of the service, which is also the name of its schema.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Connection pool for reads outside transactions.
    pub fn pool(&self) -> &PgPool {
        &self.pools.get().reads
    }

    /// Faults that a test injects.
    pub fn faults(&self) -> FaultInjection {
        self.faults
    }

    /// The clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The current time.
    pub fn now(&self) -> OffsetDateTime {
        self.clock.now()
    }

    /// Resolves at the next commit of this process that wakes background jobs ([`Tx::wake`]). Commits between
    /// this call and the await count.
    pub fn next_commit(&self) -> tokio::sync::futures::Notified<'_> {
        self.committed.notified()
    }

    /// Subscribes to commits of this process that publish to a topic ([`Tx::publish`]).
    pub fn subscribe(&self, topic: Uuid) -> Subscription {
        self.topics.subscribe(topic)
    }

    /// Runs the work of a call in a transaction and commits it. If the message has a `request_id` that was
    /// used before, returns the stored response of the first call and does not run the work.
    pub async fn write<M, R>(
        &self,
        call: &Call<M>,
        work: impl AsyncFnOnce(&mut Tx) -> Result<R>,
    ) -> Result<R>
    where
        M: Message + Check,
        R: Message + Name + Default,
    {
        const {
            let is_ours = matches!(R::PACKAGE.as_bytes(), [b't', b'e', b'n', b'a', b'n', b't', ..]);
            assert!(
                is_ours,
                "only a response of the contract is stored; use write_refusal for none"
            );
        };
        let key = idempotency::Key::of(&self.response_keys, call)?;
        access::refresh_decisions(call).await?;
        let tx = self.begin(call.actor(), call.origin.clone(), None).await?;
        let run_once = async |tx: &mut Tx| {
            let Some(key) = key else {
                let response = work(tx).await?;
                access::require_current_decisions(call)?;
                return Ok(response);
            };
            if let Some(first) = idempotency::claim(tx, &key).await? {
                return Ok(R::decode(&*first).map_err(anyhow::Error::from)?);
            }
            let response = work(tx).await?;
            idempotency::store(tx, &key, &response.encode_to_vec()).await?;
            // The caller may have lost the permission during the work.
            access::require_current_decisions(call)?;
            Ok(response)
        };
        let (response, emitted_ids) = run(tx, run_once).await?;
        call.record_written(emitted_ids);
        Ok(response)
    }

    /// Returns the stored response of an earlier call with the same `request_id` and the same message. For
    /// calls whose checks before the transaction cannot succeed twice, such as the check of a password that
    /// they change.
    pub async fn stored_response<M, R>(&self, call: &Call<M>) -> Result<Option<R>>
    where
        M: Message + Check,
        R: Message + Default,
    {
        let Some(key) = idempotency::Key::of(&self.response_keys, call)? else { return Ok(None) };
        let mut connection = self.pool().acquire().await?;
        let Some(first) = idempotency::find(&mut connection, &key).await? else { return Ok(None) };
        call.record_written(first.event_ids);
        Ok(Some(R::decode(&*first.response).map_err(anyhow::Error::from)?))
    }

    /// Runs work on behalf of a call that is refused afterwards: the record of a failed attempt. Stores no
    /// response, so that a repetition with the same `request_id` is decided again.
    pub async fn write_refusal<M>(
        &self,
        call: &Call<M>,
        work: impl AsyncFnOnce(&mut Tx) -> Result<()>,
    ) -> Result<()> {
        let tx = self.begin(call.actor(), call.origin.clone(), None).await?;
        let ((), emitted_ids) = run(tx, work).await?;
        call.record_written(emitted_ids);
        Ok(())
    }

    /// Runs work of the service itself in a transaction. `cause` is the id of the event that is reacted to,
    /// or the name of a job.
    pub async fn write_as_system<T>(
        &self,
        cause: &str,
        work: impl AsyncFnOnce(&mut Tx) -> Result<T>,
    ) -> Result<T> {
        let traceparent = trace::traceparent(&Span::current());
        let origin = pb::Origin { request_id: cause.to_owned(), traceparent, ..Default::default() };
        let tx = self.begin(system_actor(self.name), origin, Uuid::try_parse(cause).ok()).await?;
        Ok(run(tx, work).await?.0)
    }

    /// Runs work of an operator, who calls the AdminService, in a transaction. `method` is the name of the
    /// method, which the events have as their request id.
    pub async fn write_as_operator<T>(
        &self,
        method: &str,
        work: impl AsyncFnOnce(&mut Tx) -> Result<T>,
    ) -> Result<T> {
        let traceparent = trace::traceparent(&Span::current());
        let request_id = method.to_owned();
        let origin = pb::Origin { request_id, traceparent, ..Default::default() };
        Ok(run(self.begin(operator_actor(), origin, None).await?, work).await?.0)
    }

    /// Runs work on behalf of a caller outside its call: the record of a refusal.
    pub(crate) async fn write_as(
        &self,
        actor: pb::Actor,
        origin: pb::Origin,
        work: impl AsyncFnOnce(&mut Tx) -> Result<()>,
    ) -> Result<()> {
        run(self.begin(actor, origin, None).await?, work).await.map(|_| ())
    }

    /// Runs work with `synchronous_commit` off: a power failure can lose it. For positions of readers of
    /// events, which may be older than what was read, because reading an event twice has no effect.
    pub async fn write_relaxed(&self, work: impl AsyncFnOnce(&mut Tx) -> Result<()>) -> Result<()> {
        let tx = self.begin(system_actor(self.name), pb::Origin::default(), None).await?;
        let relaxed = async |tx: &mut Tx| {
            sqlx::query!("set local synchronous_commit = off").execute(tx.conn()).await?;
            work(tx).await
        };
        run(tx, relaxed).await.map(|_| ())
    }

    async fn begin(
        &self,
        actor: pb::Actor,
        origin: pb::Origin,
        parent: Option<Uuid>,
    ) -> Result<Tx> {
        Ok(Tx {
            connection: self.begin_transaction().await?,
            source: self.name,
            actor,
            origin,
            committed: self.committed.clone(),
            failover: self.failover.clone(),
            parent,
            cause: None,
            events: vec![],
            emitted_ids: vec![],
            wakes_jobs: false,
            topics: self.topics.clone(),
            published: vec![],
            now: self.clock.now(),
        })
    }

    /// Begins a transaction. If the server has closed an idle connection, uses another one: nothing was
    /// executed.
    async fn begin_transaction(&self) -> Result<TxConnection> {
        let mut is_first = true;
        loop {
            let connection = self.pools.get().writes.acquire().await?;
            let mut connection = TxConnection::new(connection, self.faults.reuse_open_transactions);
            match raw_sql("begin").execute(connection.get()).await {
                Ok(_) => return Ok(connection),
                Err(error) => {
                    self.failover.record_database_error(&error);
                    let is_closed = matches!(error, sqlx::Error::Io(_));
                    if !is_closed || !std::mem::take(&mut is_first) {
                        return Err(error.into());
                    }
                }
            }
        }
    }
}

tokio::task_local! {
    /// Set during the work of a transaction.
    static TRANSACTION: ();
}

/// Panics in builds with debug assertions if the caller is in a transaction. Remote calls begin with it: a
/// callee that does not respond must not hold a connection and its locks.
pub fn assert_no_transaction() {
    debug_assert!(TRANSACTION.try_with(|()| ()).is_err(), "a remote call inside of a transaction");
}

/// Runs work and writes its events, then commits, or rolls back after an error. Returns the value of the work
/// and the ids of its events.
async fn run<T>(
    mut tx: Tx,
    work: impl AsyncFnOnce(&mut Tx) -> Result<T>,
) -> Result<(T, Vec<Uuid>)> {
    let span = trace::span(trace::Kind::Client, "transaction");
    trace::set(&span, "db.system.name", "postgresql");
    trace::set(&span, "db.namespace", tx.source);
    let transaction = async {
        let mut outcome = TRANSACTION.scope((), work(&mut tx)).await;
        let events = tx.take_events();
        if outcome.is_ok()
            && let Err(error) = outbox::write(tx.conn(), events).await
        {
            outcome = Err(error);
        }
        let end = if outcome.is_ok() { "commit" } else { "rollback" };
        (outcome, raw_sql(end).execute(tx.conn()).await)
    };
    let (outcome, ended) = transaction.instrument(span).await;
    if ended.is_ok() {
        tx.connection.return_to_pool();
    }
    if let Err(error) = &outcome {
        tx.failover.record_error(error);
    }
    let value = outcome?;
    ended?;
    if tx.wakes_jobs {
        tx.committed.notify_waiters();
    }
    tx.topics.publish(&tx.published);
    Ok((value, std::mem::take(&mut tx.emitted_ids)))
}
