//! Stop, restart and final checks of a suite.

use chassis::Clock;
use sqlx::{AssertSqlSafe, PgPool, postgres::PgConnectOptions};
use tempfile::TempDir;

use super::{
    Options, Suite,
    start::{host, install, new_replica_folder},
};
use crate::{
    Database, LOOPBACK, bounds, database::of_each_service, deployments::stop_deployments,
    event_coverage, eventually,
};

/// A suite that is stopped, with its database and its data directory.
pub struct StoppedSuite {
    /// Connections to the database.
    pub pool: PgPool,
    options: Options,
    database: Database,
    folder: TempDir,
    clock: Clock,
}

impl StoppedSuite {
    /// Starts the suite again on the same data.
    pub async fn start(self) -> Suite {
        self.pool.close().await;
        Suite::launch(self.options, self.database, self.folder, self.clock).await
    }

    /// Replaces the options.
    #[must_use]
    pub fn with_options(self, options: Options) -> Self {
        Self { options, ..self }
    }

    /// Starts another instance on the same database, with a new data directory that has the same keys.
    pub async fn start_replica(&self) -> Suite {
        let options = Options { nats_url: self.options.nats_url.clone(), ..Options::default() };
        let folder = new_replica_folder(self.folder.path());
        Suite::launch(options, self.database.share(), folder, self.clock.clone()).await
    }
}

impl Suite {
    /// Stops the services and waits until they have drained; panics if they end with an error.
    async fn drain(&mut self) {
        self.stop.cancel();
        let ended = (&mut self.running).await;
        ended.expect("the suite does not panic").expect("the suite stops without an error");
    }

    /// Stops the suite, which can be started again.
    pub async fn halt(mut self) -> StoppedSuite {
        self.drain().await;
        let Self { pool, options, database, folder, clock, .. } = self;
        StoppedSuite { pool, options, database, folder, clock }
    }

    /// Stops the suite, runs `between`, and starts it again on the same data.
    pub async fn restart(self, between: impl AsyncFnOnce(&PgPool)) -> Self {
        let stopped = Box::pin(self.halt()).await;
        between(&stopped.pool).await;
        Box::pin(stopped.start()).await
    }

    /// Stops the suite, lets `between` copy the database to another server, and starts it there.
    pub async fn relocate(
        mut self,
        between: impl AsyncFnOnce(&PgConnectOptions) -> PgConnectOptions,
    ) -> Self {
        self.drain().await;
        self.pool.close().await;
        let options = between(&self.database.options).await;
        let database = self.database.into_copy(options).await;
        Self::launch(self.options, database, self.folder, self.clock).await
    }

    /// Stops a replica; its database is shared and stays.
    pub async fn stop_replica(mut self) {
        self.drain().await;
        self.pool.close().await;
    }

    /// Stops the suite, runs `between`, and returns the error with which the next start must fail.
    pub async fn restart_error(mut self, between: impl AsyncFnOnce(&PgPool)) -> String {
        self.drain().await;
        between(&self.pool).await;
        self.pool.close().await;
        let socket = host::process::bind(LOOPBACK).expect("an unused port");
        let address = socket.local_addr().expect("a bound socket has an address");
        let database = self.database.options.clone();
        let host = install(host(&self.options, database, self.folder.path(), address));
        let serving = host.run(socket, || (), std::future::pending());
        let ended = tokio::time::timeout(crate::TIMEOUT, serving).await.expect("the start ends");
        self.database.drop().await;
        format!("{:#}", ended.expect_err("the start fails"))
    }

    /// Stops a suite whose log a test has damaged, without the checks of [`Self::finish`].
    pub async fn stop_unchecked(mut self) {
        self.drain().await;
        self.pool.close().await;
        self.database.drop().await;
    }

    /// Stops the suite and checks that every event is in the audit log once and within its declared bounds,
    /// that there is no dead letter, that counts of rows are right, that no connection is in a transaction,
    /// and that the suite drains.
    pub async fn finish(mut self) {
        self.wait_for_log().await;
        event_coverage::check(&self.pool).await;
        let deferred = of_each_service("select event_id from {service}.deferred_event");
        let deferred = format!("select count(*) from ({deferred}) as it");
        eventually("the end of deferred events", async || {
            (self.count(AssertSqlSafe(deferred.clone())).await == 0).then_some(())
        })
        .await;
        bounds::check(&self.pool).await;
        let dead_letters = of_each_service("select event_id from {service}.dead_letter");
        let dead_letters = format!("select count(*) from ({dead_letters}) as it");
        assert_eq!(self.count(AssertSqlSafe(dead_letters)).await, 0, "there is a dead letter");
        let miscounted = "select count(*) from identity.organization as org
            where member_count <> (select count(*) from identity.member where org_id = org.id)
               or project_count <> (select count(*) from identity.project where org_id = org.id)";
        assert_eq!(self.count(miscounted).await, 0, "an organization has a wrong count");
        assert_eq!(self.nested_transactions(), 0, "a transaction began inside another");
        let open_transactions = "select count(*) from pg_stat_activity
                     where datname = current_database() and state = 'idle in transaction'
                       and state_change < now() - interval '5 seconds'";
        assert_eq!(
            self.count(open_transactions).await,
            0,
            "a connection has been idle in a transaction for more than 5 seconds"
        );
        self.drain().await;
        stop_deployments(self.folder.path());
        self.pool.close().await;
        self.database.drop().await;
    }
}
