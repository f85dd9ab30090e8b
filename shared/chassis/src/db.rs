//! Transactions: what a call changes, its events and its first answer commit together.

use std::sync::Arc;

use api::{check::Check, event as pb};
use prost::{Message, Name};
use sqlx::{
    Connection, Executor, PgConnection, PgPool, Postgres, Row, Transaction,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use time::OffsetDateTime;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::{
    Result,
    call::{Account, Call, system, user},
    changed::Changed,
    clock::{Clock, timestamp},
    id, idempotency,
};

/// A service's database.
#[derive(Clone)]
pub struct Db {
    name: &'static str,
    reads: PgPool,
    writes: PgPool,
    clock: Clock,
    committed: Arc<Notify>,
}

/// One unit of work: its writes and its events commit together, or not at all.
pub struct Tx {
    inner: Transaction<'static, Postgres>,
    source: &'static str,
    actor: pb::Actor,
    origin: pb::Origin,
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
        guard: bool,
    ) -> Self {
        let options = options.application_name(name).options([
            ("search_path", name),
            ("statement_timeout", "5s"),
            ("lock_timeout", "2s"),
            ("idle_in_transaction_session_timeout", "10s"),
        ]);
        let pool = || {
            PgPoolOptions::new()
                .max_connections(CONNECTIONS_MAX)
                .acquire_timeout(std::time::Duration::from_secs(2))
                .max_lifetime(std::time::Duration::from_secs(30 * 60))
                // Costs a round trip per use; a broken connection shows itself by an error instead.
                .test_before_acquire(false)
        };
        let reads = pool().connect_lazy_with(options.clone());
        let writes = pool().after_release(move |connection, _| {
            Box::pin(
                async move { if guard { outside_transaction(connection).await } else { Ok(true) } },
            )
        });
        let writes = writes.connect_lazy_with(options);
        Self { name, reads, writes, clock, committed: Arc::default() }
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

    /// For migrations and other work that is not a call.
    pub(crate) fn writes(&self) -> &PgPool {
        &self.writes
    }

    /// The present moment.
    pub fn now(&self) -> OffsetDateTime {
        self.clock.now()
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
        let mut tx = self.begin(call.actor(), call.origin.clone()).await?;
        let Some(key) = idempotency::Key::of(call)? else {
            let response = work(&mut tx).await?;
            self.commit(tx).await?;
            return Ok(response);
        };
        if let Some(first) = idempotency::claim(&mut tx, &key).await? {
            return Ok(R::decode(&*first).map_err(anyhow::Error::from)?);
        }
        let response = work(&mut tx).await?;
        idempotency::store(&mut tx, &key, response.encode_to_vec()).await?;
        self.commit(tx).await?;
        Ok(response)
    }

    /// Runs work of the suite itself in a transaction: a reaction to the event `cause`, or a timer.
    pub async fn write_as_system<T>(
        &self,
        cause: &str,
        work: impl AsyncFnOnce(&mut Tx) -> Result<T>,
    ) -> Result<T> {
        let origin = pb::Origin { request_id: cause.to_owned(), ..Default::default() };
        let mut tx = self.begin(system(self.name), origin).await?;
        let value = work(&mut tx).await?;
        self.commit(tx).await?;
        Ok(value)
    }

    /// Writes down where a reader stands: nothing waits for it, nobody is woken, and a power cut may lose
    /// it, because what is read again acts once.
    pub(crate) async fn jot(&self, work: impl AsyncFnOnce(&mut Tx) -> Result<()>) -> Result<()> {
        let mut tx = self.begin(system(self.name), pb::Origin::default()).await?;
        sqlx::query!("set local synchronous_commit = off").execute(tx.conn()).await?;
        work(&mut tx).await?;
        Ok(tx.inner.commit().await?)
    }

    async fn begin(&self, actor: pb::Actor, origin: pb::Origin) -> Result<Tx> {
        let inner = self.writes.begin().await?;
        Ok(Tx { inner, source: self.name, actor, origin, now: self.clock.now() })
    }

    async fn commit(&self, tx: Tx) -> Result<()> {
        tx.inner.commit().await?;
        self.committed.notify_waiters();
        Ok(())
    }
}

/// Whether a connection that comes back is fit for the next user. A connection that a cancelled `begin`
/// left inside a transaction would take the next user's writes with it (sqlx issue 4385): discard it.
async fn outside_transaction(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    // Outside a transaction each statement is its own, so both times agree.
    let row = connection.fetch_one("select now() = statement_timestamp()").await?;
    Ok(!connection.is_in_transaction() && row.try_get(0)?)
}

impl Tx {
    /// The connection to run SQL on.
    pub fn conn(&mut self) -> &mut PgConnection {
        &mut self.inner
    }

    /// From here on this account acts: for calls that themselves prove who calls, like signing in.
    pub fn act_as(&mut self, account: &Account) {
        self.actor = user(account);
    }

    /// Stores the event of a change, whose state has just been stored, and gives that state back.
    pub async fn emit<T>(&mut self, changed: Changed<T>) -> Result<T> {
        let (state, fact) = changed.into_parts();
        let (id, name, org_id) = (id::new(), fact.name.clone(), fact.org_id());
        let envelope = fact.envelope(pb::Envelope {
            id: id.to_string(),
            source: self.source.to_owned(),
            actor: Some(self.actor.clone()),
            occur_time: Some(timestamp(self.now)),
            origin: Some(self.origin.clone()),
            ..Default::default()
        });
        self.append(id, &name, org_id.map(|it| it.0), &envelope.encode_to_vec()).await?;
        Ok(state)
    }

    async fn append(
        &mut self,
        id: Uuid,
        name: &str,
        org_id: Option<Uuid>,
        envelope: &[u8],
    ) -> Result<()> {
        sqlx::query!(
            "insert into outbox (id, type, org_id, envelope) values ($1, $2, $3, $4)",
            id,
            name,
            org_id,
            envelope
        )
        .execute(self.conn())
        .await?;
        Ok(())
    }
}
