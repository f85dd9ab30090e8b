//! Each replica of each service ends and starts again, one after the other.

use testkit::Database;

use super::Drill;

/// `SIGTERM`: a replica drains.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_fails_no_call() {
    let database = Database::new().await;
    let mut drill = Drill::start("rolling restart", &database).await;
    for index in 0..drill.cluster.len() {
        drill.cluster.stop_replica(index);
        drill.cluster.start_replica(index).await;
        drill.wait_for_calls().await;
    }
    drill.finish().await;
    database.drop().await;
}

/// `SIGKILL`: calls in flight are broken off, and succeed in the second attempt.
#[tokio::test(flavor = "multi_thread")]
async fn rolling_kills_fail_no_call_twice() {
    let database = Database::new().await;
    let mut drill = Drill::start("rolling kill -9", &database).await;
    for index in 0..drill.cluster.len() {
        drill.cluster.kill_replica(index);
        drill.cluster.start_replica(index).await;
        drill.wait_for_calls().await;
    }
    drill.finish().await;
    database.drop().await;
}
