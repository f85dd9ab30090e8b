//! The broker goes away, forgets, repeats: nothing is lost, nothing happens twice.

use testkit::{Nats, Options, Person, Suite};

/// G-13: mutations go on without NATS, and the log catches up; a stream that was lost is published anew.
#[tokio::test(flavor = "multi_thread")]
async fn nats_goes_away_and_comes_back_with_an_empty_disk() {
    let mut nats = Nats::start();
    let suite =
        Suite::start_with(Options { nats_url: Some(nats.url()), ..Options::default() }).await;
    let ann = suite.person("ann@example.com").await;
    ann.create_organization("before").await.unwrap();
    suite.logged().await;

    nats.kill();
    ann.create_organization("during").await.unwrap();
    nats.wipe();
    nats.restart();
    ann.create_organization("after").await.unwrap();
    suite.logged().await;
    let (written, logged) = suite.written_and_logged().await;
    assert_eq!(written, logged);
    let twice = "select count(*) - count(distinct event_id) from audit.entry";
    assert_eq!(suite.count(twice).await, 0);
    suite.finish().await;
}

/// If NATS stays away, the log catches up through its own door; nothing is there twice when NATS is back.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_catches_up_while_nats_stays_away() {
    let mut nats = Nats::start();
    let options = Options { nats_url: Some(nats.url()), nats_patience_s: 1, ..Options::default() };
    let suite = Suite::start_with(options).await;
    let ann = suite.person("ann@example.com").await;
    nats.kill();
    ann.create_organization("during").await.unwrap();
    suite.logged().await;
    nats.restart();
    ann.create_organization("after").await.unwrap();
    suite.finish().await;
}

/// Readers start over from nothing: everything is delivered a second time, and nothing acts a second time.
#[tokio::test(flavor = "multi_thread")]
async fn everything_delivered_twice_acts_once() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let org_id = ann.create_organization("acme").await.unwrap();
    let bob = suite.person("bob@example.com").await;
    let role = api::identity::OrgRole::Viewer;
    crate::invitations::invite(&ann, &org_id, &bob.email, role, 1, vec![]).await.unwrap();
    crate::invitations::accept(&suite, &bob).await.unwrap();
    suite.logged().await;
    let (written, _) = suite.written_and_logged().await;

    let suite = suite
        .restart(async |pool| {
            for forget in [
                "delete from audit.outbox_cursor",
                "delete from invitation.outbox_cursor",
                "delete from project.outbox_cursor",
                "delete from identity.outbox_cursor",
            ] {
                sqlx::raw_sql(forget).execute(pool).await.unwrap();
            }
        })
        .await;
    let ann = Person { client: suite.client.with_token(&ann.token), ..ann };
    // A new event shows that the readers are through.
    ann.create_organization("later").await.unwrap();
    suite.logged().await;
    assert_eq!(suite.written_and_logged().await.0, written + 2);
    assert_eq!(suite.count("select count(*) from invitation.acceptance").await, 1);
    assert_eq!(suite.count("select max(use_count)::bigint from invitation.invitation").await, 1);
    suite.finish().await;
}

/// with the permissions of `deploy/nats.conf` a service publishes its own events and no others, so the
/// subject proves who an event is of.
#[tokio::test(flavor = "multi_thread")]
async fn nats_lets_a_service_publish_its_own_events_only() {
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
    assert_eq!(publish("tenantry.project.v1.x.account").await.unwrap(), 2, "nothing between");
}
