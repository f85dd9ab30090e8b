//! Outages of NATS: a stop, a deleted stream, redelivery, and publish permissions.

use testkit::{Nats, NatsCluster, Options, Person, Suite, eventually};

use crate::invitation::acceptance::{accept, invite};

/// G-13: changes succeed without NATS, and a deleted stream is published again.
#[tokio::test(flavor = "multi_thread")]
async fn nats_restarts_with_an_empty_disk() {
    let mut nats = Nats::start();
    let suite =
        Suite::start_with(Options { nats_url: Some(nats.url()), ..Options::default() }).await;
    let ann = suite.person("ann@example.com").await;
    ann.create_organization("before").await.unwrap();
    suite.wait_for_log().await;

    nats.kill();
    ann.create_organization("during").await.unwrap();
    nats.delete_data();
    nats.restart();
    ann.create_organization("after").await.unwrap();
    suite.wait_for_log().await;
    let (written, logged) = suite.written_and_logged().await;
    assert_eq!(written, logged);
    let duplicates = "select count(*) - count(distinct event_id) from audit.entry";
    assert_eq!(suite.count(duplicates).await, 0);
    suite.finish().await;
}

/// While NATS is down, events are sent to the log directly, without duplicates when NATS is back.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_complete_while_nats_is_down() {
    let mut nats = Nats::start();
    let options = Options { nats_url: Some(nats.url()), nats_patience_s: 1, ..Options::default() };
    let suite = Suite::start_with(options).await;
    let ann = suite.person("ann@example.com").await;
    nats.kill();
    ann.create_organization("during").await.unwrap();
    suite.wait_for_log().await;
    nats.restart();
    ann.create_organization("after").await.unwrap();
    suite.finish().await;
}

/// With three replicas of the stream, events are delivered while the node that leads it is lost with its
/// disk. A stream that exists with one replica gets the missing ones.
#[tokio::test(flavor = "multi_thread")]
async fn events_are_delivered_without_one_node_of_a_cluster() {
    let mut nats = NatsCluster::start().await;
    // Longer than the test: no event reaches the log without NATS.
    let patience = 3_600;
    let options = |replicas| Options {
        nats_url: Some(nats.url()),
        nats_stream_replicas: replicas,
        nats_patience_s: patience,
        ..Options::default()
    };
    let (single, replicated) = (options(1), options(3));
    let client = async_nats::connect(nats.url().split(',').collect::<Vec<_>>()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let suite = Suite::start_with(single).await;
    suite.person("ann@example.com").await;
    suite.wait_for_log().await;
    let suite = suite.halt().await.with_options(replicated).start().await;
    let ann = suite.person("bob@example.com").await;
    ann.create_organization("before").await.unwrap();
    suite.wait_for_log().await;
    let leader = eventually("three replicas that are up to date", async || {
        let mut stream = context.get_stream("TENANTRY").await.ok()?;
        let cluster = stream.info().await.ok()?.cluster.clone()?;
        let current = cluster.replicas.iter().filter(|it| it.current).count();
        cluster.leader.filter(|_| current == 2)
    })
    .await;

    nats.destroy(&leader);
    ann.create_organization("during").await.unwrap();
    suite.wait_for_log().await;
    nats.restart(&leader);
    ann.create_organization("after").await.unwrap();
    suite.wait_for_log().await;
    let (written, logged) = suite.written_and_logged().await;
    assert_eq!(written, logged);
    suite.finish().await;
}

/// Events that are delivered a second time are processed once.
#[tokio::test(flavor = "multi_thread")]
async fn events_delivered_twice_are_processed_once() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let org_id = ann.create_organization("acme").await.unwrap();
    let bob = suite.person("bob@example.com").await;
    let role = api::identity::OrgRole::Viewer;
    invite(&ann, &org_id, &bob.email, role, 1, vec![]).await.unwrap();
    accept(&suite, &bob).await.unwrap();
    suite.wait_for_log().await;
    let (written, _) = suite.written_and_logged().await;

    let suite = suite
        .restart(async |pool| {
            for reset_cursors in [
                "delete from audit.outbox_cursor",
                "delete from invitation.outbox_cursor",
                "delete from project.outbox_cursor",
                "delete from identity.outbox_cursor",
            ] {
                sqlx::raw_sql(reset_cursors).execute(pool).await.unwrap();
            }
        })
        .await;
    let ann = Person { client: suite.client.with_token(&ann.token), ..ann };
    // A new event is delivered after the old ones.
    ann.create_organization("later").await.unwrap();
    suite.wait_for_log().await;
    // Only the two events of the new organization were written; no reaction has run again.
    assert_eq!(suite.written_and_logged().await.0, written + 2);
    assert_eq!(suite.count("select count(*) from invitation.acceptance").await, 1);
    assert_eq!(suite.count("select max(use_count)::bigint from invitation.invitation").await, 1);
    suite.finish().await;
}

/// with the permissions of `deploy/nats.conf` a service can publish to its own subjects only, so that
/// the subject proves the source of an event.
#[tokio::test(flavor = "multi_thread")]
async fn nats_permissions_limit_publishing_to_own_events() {
    let nats = Nats::start_with_permissions();
    let options = async_nats::ConnectOptions::with_user_and_password(
        "project".to_owned(),
        "project".to_owned(),
    );
    let client = options.connect(nats.url()).await.unwrap();
    let mut context = async_nats::jetstream::new(client);
    context.set_timeout(std::time::Duration::from_secs(2));
    let stream = async_nats::jetstream::stream::Config {
        name: "TENANTRY".to_owned(),
        subjects: vec!["tenantry.>".to_owned()],
        ..Default::default()
    };
    context.get_or_create_stream(stream).await.unwrap();
    let publish = async |subject: &'static str| {
        let sent = context.publish(subject, "x".into()).await.unwrap();
        sent.await.map(|it| it.sequence)
    };
    assert_eq!(publish("tenantry.project.v1.x.account").await.unwrap(), 1);
    publish("tenantry.identity.v1.x.account").await.unwrap_err();
    assert_eq!(
        publish("tenantry.project.v1.x.account").await.unwrap(),
        2,
        "sequence number in the stream, which has not stored the rejected message"
    );
}
