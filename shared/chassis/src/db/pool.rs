//! Connection pools.

use std::{
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{
    PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
    query_scalar,
};

use super::failover::Failover;

/// Pools of one schema, opened on first use. Clones share them.
#[derive(Clone)]
pub(super) struct LazyPools(Arc<State>);

struct State {
    name: &'static str,
    options: RwLock<PgConnectOptions>,
    failover: Failover,
    /// Largest number of connections of both pools together.
    connections_max: AtomicU32,
    pools: OnceLock<Pools>,
}

/// Connection pools of one schema.
pub(super) struct Pools {
    /// For reads outside transactions.
    pub(super) reads: PgPool,
    /// For transactions.
    pub(super) writes: PgPool,
}

impl LazyPools {
    pub(super) fn new(
        name: &'static str,
        options: PgConnectOptions,
        failover: Failover,
        connections_max: u32,
    ) -> Self {
        let connections_max = AtomicU32::new(connections_max);
        let options = RwLock::new(options);
        Self(Arc::new(State { name, options, failover, connections_max, pools: OnceLock::new() }))
    }

    /// Sets the largest number of connections. No effect after the first use of a pool.
    pub(super) fn set_connections_max(&self, max: u32) {
        self.0.connections_max.store(max, Ordering::Relaxed);
    }

    /// Sets the server of new connections.
    pub(super) fn set_server(&self, host: &str, port: u16) {
        let mut options = self.0.options.write().unwrap_or_else(PoisonError::into_inner);
        *options = options.clone().host(host).port(port);
        if let Some(pools) = self.used() {
            pools.reads.set_connect_options(options.clone());
            pools.writes.set_connect_options(options.clone());
        }
    }

    /// Returns the pools, if they have been used.
    pub(super) fn used(&self) -> Option<&Pools> {
        self.0.pools.get()
    }

    pub(super) fn get(&self) -> &Pools {
        self.0.pools.get_or_init(|| {
            let max = self.0.connections_max.load(Ordering::Relaxed).max(2);
            Pools { reads: self.0.open(max / 2), writes: self.0.open(max - max / 2) }
        })
    }
}

impl State {
    /// Opens a pool, whose connections are made on first use.
    fn open(&self, connections_max: u32) -> PgPool {
        let (name, failover) = (self.name, self.failover.clone());
        let options = self.options.read().unwrap_or_else(PoisonError::into_inner).clone();
        PgPoolOptions::new()
            .max_connections(connections_max)
            .acquire_timeout(Duration::from_secs(2))
            .max_lifetime(Duration::from_secs(30 * 60))
            // A test would cost a round trip for each use; a broken connection fails its first query.
            .test_before_acquire(false)
            .after_connect(move |connection, _| Box::pin(require_search_path(connection, name)))
            .before_acquire(move |_, metadata| {
                let opened = Instant::now().checked_sub(metadata.age);
                let is_outdated = opened.is_some_and(|it| failover.is_outdated(it));
                Box::pin(async move { Ok(!is_outdated) })
            })
            .connect_lazy_with(options)
    }
}

/// Fails if a session does not have the schema `name` as its search path. Poolers such as PgBouncer can drop
/// the start-up options of a connection.
async fn require_search_path(connection: &mut PgConnection, name: &str) -> sqlx::Result<()> {
    let path = query_scalar!(r#"select current_setting('search_path') as "path!""#);
    let path = path.fetch_one(connection).await?;
    if path == name {
        return Ok(());
    }
    let message = format!(
        "the search path of the session is {path:?} instead of {name:?}: a connection pooler in front of \
         the database ignores start-up options; connect to PostgreSQL itself"
    );
    Err(sqlx::Error::Configuration(message.into()))
}
