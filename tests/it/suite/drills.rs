//! Rolling drills: restarts, kills, rotations, losses of a server and an upgrade of two replicas of each
//! service under load. Nothing acknowledged is lost or done twice, and no call fails in more than one
//! attempt.
//!
//! Each drill prints a row of the table in `docs/reference/reliability.md`.

mod losses;
mod restarts;
mod rotations;
mod upgrade;

use testkit::{
    Database, Person,
    load::{Load, Outcome},
};

use crate::support::cluster::Cluster;

/// Calls that the workers of a drill begin per second.
const CALLS_PER_SECOND: f64 = 30.0;
/// Number of calls that succeed between two steps of a drill, and before and after them.
const CALLS_BETWEEN: u64 = 20;

/// A deployment under load.
struct Drill {
    name: &'static str,
    cluster: Cluster,
    load: Load,
    /// Owner of the organization under load.
    owner: Person,
    org_id: String,
}

impl Drill {
    /// Starts a deployment on the database of a test, and a load.
    async fn start(name: &'static str, database: &Database) -> Self {
        Self::start_with(name, |service| database.url_as(&format!("tenantry_{service}")), &[]).await
    }

    async fn start_with(
        name: &'static str,
        database_url: impl Fn(&str) -> String,
        more: &[&str],
    ) -> Self {
        let cluster = Cluster::start(database_url, more).await;
        let tenant = cluster.create_tenant().await;
        let (owner, org_id) = (tenant.owner.clone(), tenant.org_id.clone());
        let load = Load::start(tenant, cluster.endpoints(), CALLS_PER_SECOND);
        let drill = Self { name, cluster, load, owner, org_id };
        drill.wait_for_calls().await;
        drill
    }

    /// Waits until more calls have succeeded.
    async fn wait_for_calls(&self) {
        self.load.wait_for_more(CALLS_BETWEEN).await;
    }

    /// Ends the load, prints the result, and fails if a call failed twice or something is lost or duplicated.
    async fn finish(self) {
        self.wait_for_calls().await;
        let outcome = self.load.stop().await.check().await;
        print(self.name, &outcome);
        if outcome.failed > 0 {
            self.cluster.print_warnings();
        }
        outcome.require_none_failed();
        self.cluster.stop();
    }
}

#[expect(clippy::print_stderr, reason = "figures of a drill, which no assertion has")]
fn print(name: &str, outcome: &Outcome) {
    eprintln!("drill: {name} | {outcome}\n{}", outcome.errors);
}
