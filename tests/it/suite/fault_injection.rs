//! Counter-checks of the protections of event delivery: with one switched off, the log loses or duplicates
//! events. They show that the tests of event delivery would detect a missing protection.

use chassis::FaultInjection;
use sqlx::PgPool;
use testkit::{Nats, Options, Suite, eventually};

use crate::suite::outbox;

/// Setting `nats_patience_s` that disables the reconciliation of outbox and log, which would repair the
/// damage: more seconds than any test takes.
const NEVER: u64 = 100_000;

/// Part of the statement by which ingestion locks trees. No other task of audit executes it.
const INGESTION: &str = "for update of tree";

/// Starts a suite on NATS with faults.
async fn start(nats: &Nats, faults: FaultInjection) -> Suite {
    let options = Options {
        nats_url: Some(nats.url()),
        nats_patience_s: NEVER,
        faults,
        ..Options::default()
    };
    Suite::start_with(options).await
}

/// Runs `work` while a lock blocks ingestion. All entries are signed before, so that only ingestion waits.
async fn while_ingestion_is_blocked(pool: &PgPool, work: impl AsyncFnOnce()) {
    let unsigned = "select count(*) from audit.tree where signed < size";
    eventually("the signature of all entries", async || {
        let unsigned = sqlx::query_scalar::<_, i64>(unsigned).fetch_one(pool).await.unwrap();
        (unsigned == 0).then_some(())
    })
    .await;
    let mut tx = pool.begin().await.unwrap();
    sqlx::raw_sql("lock table audit.tree in exclusive mode").execute(&mut *tx).await.unwrap();
    work().await;
    tx.commit().await.unwrap();
}

/// An unused slug.
fn unique_slug() -> String {
    format!("acme-{}", chassis::id::new().simple())
}

/// `Some` if ingestion has been waiting for the lock since before a time.
async fn is_blocked_since(suite: &Suite, before: &str) -> Option<()> {
    let waits = "select count(*) from pg_stat_activity
                 where wait_event_type = 'Lock' and position($2 in query) > 0
                   and datname = current_database() and query_start < $1::timestamptz";
    let waits =
        sqlx::query_scalar::<_, i64>(waits).bind(before).bind(INGESTION).fetch_one(&suite.pool);
    (waits.await.unwrap() > 0).then_some(())
}

/// Creates an organization and waits for its event in the log. Returns the number of earlier events that are
/// missing in the log then.
async fn count_missing(suite: &Suite, ann: &testkit::Person) -> i64 {
    let newest = ann.create_organization("newest").await.unwrap();
    eventually("a newer event in the log", async || {
        let newer = "select count(*) from audit.tree where size > 1 and org_id = $1::uuid";
        let newer = sqlx::query_scalar::<_, i64>(newer).bind(&newest).fetch_one(&suite.pool);
        (newer.await.unwrap() > 0).then_some(())
    })
    .await;
    let (written, logged) = suite.written_and_logged().await;
    written - logged
}

/// G-01: an event that is acknowledged before the commit of its entry is lost if the commit fails.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_acknowledged_too_early_is_lost() {
    for acknowledge_early in [false, true] {
        let nats = Nats::start();
        let suite =
            start(&nats, FaultInjection { acknowledge_early, ..FaultInjection::default() }).await;
        let ann = suite.person("ann@example.com").await;
        suite.wait_for_log().await;
        while_ingestion_is_blocked(&suite.pool, async || {
            ann.create_organization("blocked").await.unwrap();
            // The lock is held until ingestion has failed with a lock time-out.
            eventually("the blocked ingestion", async || {
                (suite.count_blocked(INGESTION).await > 0).then_some(())
            })
            .await;
            eventually("the lock time-out", async || {
                (suite.count_blocked(INGESTION).await == 0).then_some(())
            })
            .await;
        })
        .await;
        if acknowledge_early {
            assert!(count_missing(&suite, &ann).await > 0, "the fault has no effect");
            suite.stop_unchecked().await;
        } else {
            suite.wait_for_log().await;
            suite.finish().await;
        }
    }
}

/// G-13: events that are deleted when they are published are lost with the disk of the broker.
#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_deleted_when_published_are_lost_with_the_broker() {
    for delete_published_events in [false, true] {
        let mut nats = Nats::start();
        let suite =
            start(&nats, FaultInjection { delete_published_events, ..FaultInjection::default() })
                .await;
        let ann = suite.person("ann@example.com").await;
        suite.wait_for_log().await;
        let pool = suite.pool.clone();
        while_ingestion_is_blocked(&pool, async || {
            // Ingestion must be blocked by an older event: events that it has already received are not lost.
            eventually("a newer event at the broker", async || {
                ann.create_organization(&unique_slug()).await.unwrap();
                is_blocked_since(&suite, "infinity").await?;
                let before = sqlx::query_scalar("select clock_timestamp()::text");
                let before: String = before.fetch_one(&pool).await.unwrap();
                ann.create_organization(&unique_slug()).await.unwrap();
                // The relay publishes an event before its cursor passes it, so the broker has all events now.
                let published = "select count(*) from identity.outbox_cursor as it
                                 where reader like 'relay@%' and not exists (
                                     select from identity.outbox
                                     where (written_by, outbox.position) > (it.horizon, it.position))";
                eventually("the events at the broker", async || {
                    (suite.count(published).await > 0).then_some(())
                })
                .await;
                is_blocked_since(&suite, &before).await
            })
            .await;
            nats.kill();
            nats.delete_data();
        })
        .await;
        nats.restart();
        if delete_published_events {
            assert!(count_missing(&suite, &ann).await > 0, "the fault has no effect");
            suite.stop_unchecked().await;
        } else {
            suite.wait_for_log().await;
            suite.finish().await;
        }
    }
}

/// G-02: without deduplication an event that is delivered twice is recorded twice.
#[tokio::test(flavor = "multi_thread")]
async fn without_deduplication_the_log_has_duplicates() {
    let faults = FaultInjection { record_duplicates: true, ..FaultInjection::default() };
    let suite = Suite::start_with(Options { faults, ..Options::default() }).await;
    let ann = suite.person("ann@example.com").await;
    ann.create_organization("acme").await.unwrap();
    suite.wait_for_log().await;
    let suite = suite
        .restart(async |pool| {
            sqlx::raw_sql("delete from audit.outbox_cursor").execute(pool).await.unwrap();
        })
        .await;
    let duplicates = "select count(*) - count(distinct event_id) from audit.entry";
    eventually("duplicate entries", async || (suite.count(duplicates).await > 0).then_some(()))
        .await;
    suite.stop_unchecked().await;
}

/// G-01: a cursor without the horizon of running transactions skips events of transactions that commit late.
#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_without_horizon_loses_events() {
    let faults = FaultInjection { skip_running_transactions: true, ..FaultInjection::default() };
    let options = Options { faults, nats_patience_s: NEVER, ..Options::default() };
    let suite = Suite::start_with(options).await;
    let mut older = outbox::begin(&suite.pool).await;
    let mut younger = outbox::begin(&suite.pool).await;
    let first = outbox::write_event(&mut younger).await;
    let second = outbox::write_event(&mut older).await;
    older.commit().await.unwrap();
    outbox::wait_for_entry(&suite, second).await;
    younger.commit().await.unwrap();
    // A newer event is delivered, the skipped one is not.
    let mut newer = outbox::begin(&suite.pool).await;
    let third = outbox::write_event(&mut newer).await;
    newer.commit().await.unwrap();
    outbox::wait_for_entry(&suite, third).await;
    let is_logged = "select exists (select from audit.entry where event_id = $1)";
    let is_logged: bool =
        sqlx::query_scalar(is_logged).bind(first).fetch_one(&suite.pool).await.unwrap();
    assert!(!is_logged, "the fault has no effect");
    suite.stop_unchecked().await;
}
