//! Readiness: the gRPC services are SERVING while the database responds and accepts writes. Liveness is
//! separate: the health port answers `/livez` as long as the process runs.

use std::time::Duration;

use chassis::Db;
use health::Readiness;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::time::timeout;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::servers::{Servers, is_read_only};

/// Interval of the checks of the database.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// Time-out of a check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// Health of the gRPC services of a process, and of the process (empty name).
pub(crate) struct Health {
    reporter: HealthReporter,
    readiness: Readiness,
    names: Vec<&'static str>,
    database: DatabaseCheck,
}

/// Check of the database of a process, on a connection of its own: calls that wait for a pool do not delay
/// it.
struct DatabaseCheck {
    /// Schemas of the process, which are all in this database.
    schemas: Vec<Db>,
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
        let schemas = databases.into_iter().collect();
        let database = DatabaseCheck { schemas, connection: None, servers: servers.clone() };
        Self { reporter, readiness, names, database }
    }

    /// Reports every service as SERVING, after the start.
    pub(crate) async fn set_serving(&self) {
        self.report(true).await;
    }

    /// Checks the database again and again, and reports changes. Never returns.
    pub(crate) async fn watch(&mut self) {
        let mut reported = true;
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            let is_writable = self.database.is_writable().await;
            if is_writable != reported {
                self.report(is_writable).await;
                reported = is_writable;
            }
        }
    }

    /// Reports all services as SERVING, or as `NOT_SERVING` because of the database.
    async fn report(&self, is_writable: bool) {
        for name in self.names.iter().chain(&[""]) {
            self.set(name, is_writable).await;
        }
        if is_writable {
            self.readiness.set_ready();
            tracing::info!("ready");
        } else {
            let cause = "the database does not respond or is read-only";
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
            self.schemas.iter().for_each(Db::replace_connections);
        }
        state == DatabaseState::Writable || self.servers.are_several() && self.fail_over().await
    }

    /// Returns the state of the server in use.
    async fn examine(&mut self) -> DatabaseState {
        let Some(db) = self.schemas.first() else { return DatabaseState::Writable };
        let open = self.connection.take();
        let check = async {
            let mut connection = match open {
                Some(connection) => connection,
                None => PgConnection::connect_with(&db.pool().connect_options()).await?,
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
        for db in &self.schemas {
            let current = db.pool().connect_options();
            let at = |it: &PgConnectOptions| {
                PgConnectOptions::clone(&current).host(it.get_host()).port(it.get_port())
            };
            let Some(primary) = self.servers.primary(at).await else { return false };
            let (host, port) = (primary.get_host(), primary.get_port());
            if (host, port) != (current.get_host(), current.get_port()) {
                let schema = db.name();
                tracing::warn!(schema, host, port, "another database server is the primary now");
                db.set_server(host, port);
            }
        }
        true
    }
}
