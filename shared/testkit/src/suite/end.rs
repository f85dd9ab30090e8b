//! Ends of a suite, and starts on what it left.

use sqlx::{PgPool, postgres::PgConnectOptions};
use tokio::net::TcpListener;

use super::{Suite, host, install};
use crate::{bounds, deployments::stop_deployments, eventually, primary};

impl Suite {
    /// Ends the suite, as an operator would, lets `between` happen, and starts it again on what it left.
    pub async fn restart(self, between: impl AsyncFnOnce(&PgPool)) -> Self {
        self.stop.cancel();
        self.running.await.expect("the suite does not panic").expect("the suite ends well");
        between(&self.pool).await;
        self.pool.close().await;
        Self::launch(self.options, self.database, self.folder, self.clock).await
    }

    /// Ends the suite, lets `between` move its database to another server, and starts it again there.
    pub async fn relocate(
        self,
        between: impl AsyncFnOnce(&PgConnectOptions) -> PgConnectOptions,
    ) -> Self {
        self.stop.cancel();
        self.running.await.expect("the suite does not panic").expect("the suite ends well");
        self.pool.close().await;
        let options = between(&self.database.options).await;
        let database = self.database.moved(options).await;
        Self::launch(self.options, database, self.folder, self.clock).await
    }

    /// Ends a replica; the database stays.
    pub async fn leave(self) {
        self.stop.cancel();
        self.running.await.expect("the suite does not panic").expect("the suite ends well");
        self.pool.close().await;
    }

    /// Ends the suite, lets `between` happen, and answers why it does not start again.
    pub async fn restart_refused(self, between: impl AsyncFnOnce(&PgPool)) -> String {
        self.stop.cancel();
        self.running.await.expect("the suite does not panic").expect("the suite ends well");
        between(&self.pool).await;
        self.pool.close().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let database = self.database.options.clone();
        let host = install(host(&self.options, database, self.folder.path(), address));
        let serving = host.run(listener, || (), std::future::pending());
        let ended = tokio::time::timeout(crate::PATIENCE, serving).await.expect("it ends");
        self.database.drop().await;
        format!("{:#}", ended.expect_err("it is refused"))
    }

    /// Ends a suite whose log was damaged on purpose, without the checks of its end.
    pub async fn abandon(self) {
        self.stop.cancel();
        self.running.await.expect("the suite does not panic").expect("the suite ends well");
        self.pool.close().await;
        self.database.drop().await;
    }

    /// Ends the suite. Ending is a check: every event is in the log once and within its declared bounds, no
    /// reaction gave up, no connection is left in a transaction, and the suite drains.
    pub async fn finish(self) {
        self.logged().await;
        primary::check(&self.pool).await;
        let waiting = "select count(*) from (
                 table identity.deferred_event union all table project.deferred_event union all
                 table invitation.deferred_event union all table audit.deferred_event) as it";
        eventually("the events that were set aside", async || {
            (self.count(waiting).await == 0).then_some(())
        })
        .await;
        bounds::check(&self.pool).await;
        let dead = "select (select count(*) from identity.dead_letter)
                         + (select count(*) from project.dead_letter)
                         + (select count(*) from invitation.dead_letter)";
        assert_eq!(self.count(dead).await, 0, "a reaction gave up");
        assert_eq!(self.nested_transactions(), 0, "a connection was left in a transaction");
        let stuck = "select count(*) from pg_stat_activity
                     where datname = current_database() and state = 'idle in transaction'
                       and state_change < now() - interval '1 second'";
        assert_eq!(self.count(stuck).await, 0, "a connection is left in a transaction");
        self.stop.cancel();
        self.running.await.expect("the suite does not panic").expect("the suite ends well");
        stop_deployments(self.folder.path());
        stop_deployments(self.folder.path());
        self.pool.close().await;
        self.database.drop().await;
    }
}
