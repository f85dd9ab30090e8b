//! A server that the services use is lost: the primary of PostgreSQL, or the NATS node of the stream.

use testkit::{Database, PostgresPair, Process, eventually};

use super::Drill;

/// The primary is killed and its synchronous standby promoted; `--database-url` names both.
#[tokio::test(flavor = "multi_thread")]
async fn a_fail_over_of_the_database_fails_no_call_twice() {
    let mut postgres = PostgresPair::start().await;
    let folder = tempfile::tempdir().unwrap();
    let arguments = [
        "migrate".to_owned(),
        format!("--data-dir={}", folder.path().display()),
        format!("--database-url={}", postgres.url_as("tenantry")),
    ];
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let migrated = tokio::task::block_in_place(|| Process::run("tenantry", &arguments));
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    let drill = {
        let url = |service: &str| postgres.url_as(&format!("tenantry_{service}"));
        Drill::start_with("PostgreSQL fail-over", url, &[]).await
    };
    postgres.kill_primary();
    postgres.promote_standby().await;
    drill.wait_for_calls().await;
    drill.finish().await;
}

/// The node that leads the stream loses its data, and comes back empty.
#[tokio::test(flavor = "multi_thread")]
async fn the_loss_of_a_nats_node_fails_no_call() {
    let database = Database::new().await;
    let mut drill = Drill::start("loss of a NATS node", &database).await;
    let client = drill.cluster.nats.connect_as_operator().await;
    let context = async_nats::jetstream::new(client);
    let leader = async || {
        eventually("three replicas that are up to date", async || {
            let mut stream = context.get_stream("TENANTRY").await.ok()?;
            let cluster = stream.info().await.ok()?.cluster.clone()?;
            let current = cluster.replicas.iter().filter(|it| it.current).count();
            cluster.leader.filter(|_| current == 2)
        })
        .await
    };
    let lost = leader().await;
    drill.cluster.nats.destroy(&lost);
    drill.wait_for_calls().await;
    drill.cluster.nats.restart(&lost);
    leader().await;
    drill.wait_for_calls().await;
    drill.finish().await;
    database.drop().await;
}
