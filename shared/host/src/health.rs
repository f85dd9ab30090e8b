//! Readiness: each gRPC service is SERVING while its database responds and accepts writes. Liveness is
//! separate: the health port answers `/livez` as long as the process runs.

use std::{collections::BTreeSet, time::Duration};

use chassis::{Db, registry};
use health::Readiness;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::time::timeout;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::servers::{Servers, is_read_only};

/// Interval of the checks of a database.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// Time-out of a check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// Health of the gRPC services of a process, and of the process (empty name).
pub(crate) struct Health {
    reporter: HealthReporter,
    readiness: Readiness,
    names: Vec<&'static str>,
    databases: Vec<DatabaseCheck>,
}

/// Check of one database, on a connection of its own: calls that wait for the pool do not delay it.
struct DatabaseCheck {
    db: Db,
    connection: Option<PgConnection>,
    servers: Servers,
}

/// State of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DatabaseState {
    /// It responds and accepts writes.
    Writable,
    /// It responds and does not accept writes.
    ReadOnly,
    /// The connection failed.
    Failed,
    /// It did not respond in time, for example because of a high load.
    Late,
}

impl Health {
    pub(crate) fn new(
        reporter: HealthReporter,
        readiness: Readiness,
        names: Vec<&'static str>,
        databases: impl IntoIterator<Item = Db>,
        servers: &Servers,
    ) -> Self {
        let check = |db| DatabaseCheck { db, connection: None, servers: servers.clone() };
        let databases = databases.into_iter().map(check);
        Self { reporter, readiness, names, databases: databases.collect() }
    }

    /// Reports every service as SERVING, after the start.
    pub(crate) async fn set_serving(&self) {
        self.report(&BTreeSet::new()).await;
    }

    /// Checks the databases again and again, and reports changes. Never returns.
    pub(crate) async fn watch(&mut self) {
        let mut reported = BTreeSet::new();
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            let checks = self
                .databases
                .iter_mut()
                .map(async |check| (!check.is_writable().await).then_some(check.db.name()));
            let failed: BTreeSet<_> =
                futures::future::join_all(checks).await.into_iter().flatten().collect();
            if failed != reported {
                self.report(&failed).await;
                reported = failed;
            }
        }
    }

    /// Reports the services whose databases do not respond as `NOT_SERVING`, the others as SERVING.
    async fn report(&self, failed: &BTreeSet<&'static str>) {
        for name in &self.names {
            let service = registry::SERVICES.iter().find(|it| it.serves_any(&[name]));
            let is_failed = service.is_some_and(|it| failed.contains(it.name));
            self.set(name, !is_failed).await;
        }
        self.set("", failed.is_empty()).await;
        if failed.is_empty() {
            self.readiness.set_ready();
            tracing::info!("ready");
        } else {
            let names = failed.iter().copied().collect::<Vec<_>>().join(", ");
            let cause = format!("the database does not respond or is read-only (schemas: {names})");
            tracing::warn!(cause, "not ready");
            self.readiness.set_not_ready(cause);
        }
    }

    async fn set(&self, name: &str, is_serving: bool) {
        let status = if is_serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.reporter.set_service_status(name, status).await;
    }

    /// Reports `NOT_SERVING`, then ends the watch streams, which would delay the drain.
    pub(crate) async fn set_draining(&mut self) {
        self.readiness.set_not_ready("the process drains");
        for name in self.names.iter().chain(&[""]) {
            self.set(name, false).await;
        }
        tokio::task::yield_now().await;
        for name in self.names.iter().chain(&[""]) {
            self.reporter.clear_service_status(name).await;
        }
    }
}

impl DatabaseCheck {
    /// True if the database responds in time and accepts writes. After the loss of its server the connections
    /// are replaced, and another server is used if that is the primary now.
    async fn is_writable(&mut self) -> bool {
        let state = self.examine().await;
        if matches!(state, DatabaseState::ReadOnly | DatabaseState::Failed) {
            self.db.replace_connections();
        }
        state == DatabaseState::Writable || self.servers.are_several() && self.fail_over().await
    }

    /// Returns the state of the server in use.
    async fn examine(&mut self) -> DatabaseState {
        let open = self.connection.take();
        let check = async {
            let mut connection = match open {
                Some(connection) => connection,
                None => PgConnection::connect_with(&self.db.pool().connect_options()).await?,
            };
            Ok::<_, sqlx::Error>((is_read_only(&mut connection).await?, connection))
        };
        match timeout(CHECK_TIMEOUT, check).await {
            Ok(Ok((false, connection))) => {
                self.connection = Some(connection);
                DatabaseState::Writable
            }
            Ok(Ok((true, _))) => DatabaseState::ReadOnly,
            Ok(Err(_)) => DatabaseState::Failed,
            Err(_) => DatabaseState::Late,
        }
    }

    /// Uses another server that accepts writes. Returns false if there is none.
    async fn fail_over(&self) -> bool {
        let current = self.db.pool().connect_options();
        let at = |it: &PgConnectOptions| {
            PgConnectOptions::clone(&current).host(it.get_host()).port(it.get_port())
        };
        let Some(primary) = self.servers.primary(at).await else { return false };
        let (host, port) = (primary.get_host(), primary.get_port());
        if (host, port) != (current.get_host(), current.get_port()) {
            let schema = self.db.name();
            tracing::warn!(schema, host, port, "another database server is the primary now");
            self.db.set_server(host, port);
        }
        true
    }
}
