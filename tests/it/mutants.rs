//! Without its safety devices the log loses events, or has them twice: each device is switched off, and what
//! comes of it is seen. A check that never fails proves nothing.

use chassis::host::Guards;
use sqlx::PgPool;
use testkit::{Nats, Options, Suite, eventually};

use crate::outbox;

/// Nobody heals what goes wrong: the comparison of outbox and log comes too late.
const NEVER: u64 = 100_000;

/// A suite on NATS with some device switched off, or with all.
async fn start(nats: &Nats, guards: Guards) -> Suite {
    let options = Options {
        nats_url: Some(nats.url()),
        nats_patience_s: NEVER,
        guards,
        ..Options::default()
    };
    Suite::start_with(options).await
}

/// Holds the log, so that it can take nothing, while `work` is done.
async fn while_the_log_is_held(pool: &PgPool, work: impl AsyncFnOnce()) {
    let mut tx = pool.begin().await.unwrap();
    sqlx::raw_sql("lock table audit.tree in exclusive mode").execute(&mut *tx).await.unwrap();
    work().await;
    tx.commit().await.unwrap();
}

/// A slug that nobody has.
fn made_up() -> String {
    format!("acme-{}", chassis::id::new().simple())
}

/// Whether the log waits for its lock since before a moment.
async fn log_waits(suite: &Suite, before: &str) -> Option<()> {
    let waits = "select count(*) from pg_stat_activity
                 where wait_event_type = 'Lock' and application_name = 'audit'
                   and datname = current_database() and query_start < $1::timestamptz";
    let waits = sqlx::query_scalar::<_, i64>(waits).bind(before).fetch_one(&suite.pool);
    (waits.await.unwrap() > 0).then_some(())
}

/// How many events are written and not in the log, once something newer is in it.
async fn missing(suite: &Suite, ann: &testkit::Person) -> i64 {
    let newest = ann.create_organization("newest").await.unwrap();
    eventually("something newer in the log", async || {
        let there = "select count(*) from audit.tree where size > 1 and org_id = $1::uuid";
        let there = sqlx::query_scalar::<_, i64>(there).bind(&newest).fetch_one(&suite.pool);
        (there.await.unwrap() > 0).then_some(())
    })
    .await;
    let (written, logged) = suite.written_and_logged().await;
    written - logged
}

/// G-01: acknowledged before the commit, an event that the log could not take never comes again.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_acknowledged_too_early_is_lost() {
    for late_acks in [true, false] {
        let nats = Nats::start();
        let suite = start(&nats, Guards { late_acks, ..Guards::default() }).await;
        let ann = suite.person("ann@example.com").await;
        suite.logged().await;
        while_the_log_is_held(&suite.pool, async || {
            ann.create_organization("held").await.unwrap();
            // Longer than a statement waits for a lock.
            let waits = "select count(*) from pg_stat_activity
                         where wait_event_type = 'Lock' and application_name = 'audit'";
            eventually("the log waits", async || (suite.count(waits).await > 0).then_some(()))
                .await;
            eventually("it gives up", async || (suite.count(waits).await == 0).then_some(())).await;
        })
        .await;
        if late_acks {
            suite.logged().await;
            suite.finish().await;
        } else {
            assert!(missing(&suite, &ann).await > 0, "the mutant is not seen");
            suite.abandon().await;
        }
    }
}

/// G-13: deleted when the broker has them, events are lost with the broker's disk.
#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_deleted_when_the_broker_has_them_are_lost_with_it() {
    for kept_events in [true, false] {
        let mut nats = Nats::start();
        let suite = start(&nats, Guards { kept_events, ..Guards::default() }).await;
        let ann = suite.person("ann@example.com").await;
        suite.logged().await;
        let pool = suite.pool.clone();
        while_the_log_is_held(&pool, async || {
            // What the log has in hand while the broker goes is not lost, so it must wait with something
            // older.
            eventually("something newer at the broker", async || {
                ann.create_organization(&made_up()).await.unwrap();
                log_waits(&suite, "infinity").await?;
                let before = sqlx::query_scalar("select clock_timestamp()::text");
                let before: String = before.fetch_one(&pool).await.unwrap();
                ann.create_organization(&made_up()).await.unwrap();
                // The relay has passed it, so the broker has it.
                let published = "select count(*) from identity.outbox_cursor as it
                                 where reader like 'relay@%' and not exists (
                                     select from identity.outbox
                                     where (written_by, outbox.position) > (it.horizon, it.position))";
                eventually("the events at the broker", async || {
                    (suite.count(published).await > 0).then_some(())
                })
                .await;
                log_waits(&suite, &before).await
            })
            .await;
            nats.kill();
            nats.wipe();
        })
        .await;
        nats.restart();
        if kept_events {
            suite.logged().await;
            suite.finish().await;
        } else {
            assert!(missing(&suite, &ann).await > 0, "the mutant is not seen");
            suite.abandon().await;
        }
    }
}

/// G-02: without the memory of what is there, an event that comes twice is there twice.
#[tokio::test(flavor = "multi_thread")]
async fn without_its_memory_the_log_has_events_twice() {
    let guards = Guards { one_entry: false, ..Guards::default() };
    let suite = Suite::start_with(Options { guards, ..Options::default() }).await;
    let ann = suite.person("ann@example.com").await;
    ann.create_organization("acme").await.unwrap();
    suite.logged().await;
    let suite = suite
        .restart(async |pool| {
            sqlx::raw_sql("delete from audit.outbox_cursor").execute(pool).await.unwrap();
        })
        .await;
    let twice = "select count(*) - count(distinct event_id) from audit.entry";
    eventually("events twice", async || (suite.count(twice).await > 0).then_some(())).await;
    suite.abandon().await;
}

/// G-01: a reader that remembers a position only passes over a transaction that commits late.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_remembers_a_position_only_loses_events() {
    let guards = Guards { horizon: false, ..Guards::default() };
    let options = Options { guards, nats_patience_s: NEVER, ..Options::default() };
    let suite = Suite::start_with(options).await;
    let mut older = outbox::begin(&suite.pool).await;
    let mut younger = outbox::begin(&suite.pool).await;
    let first = outbox::write(&mut younger).await;
    let second = outbox::write(&mut older).await;
    older.commit().await.unwrap();
    outbox::logged(&suite, second).await;
    younger.commit().await.unwrap();
    // Something newer gets through, and what was passed over does not.
    let mut newer = outbox::begin(&suite.pool).await;
    let third = outbox::write(&mut newer).await;
    newer.commit().await.unwrap();
    outbox::logged(&suite, third).await;
    let there = "select exists (select from audit.entry where event_id = $1)";
    let there: bool = sqlx::query_scalar(there).bind(first).fetch_one(&suite.pool).await.unwrap();
    assert!(!there, "the mutant is not seen");
    suite.abandon().await;
}
