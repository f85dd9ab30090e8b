//! Consumers of events outside of the suite: headers (CloudEvents), subjects, and the permissions of the NATS
//! user `reader`.

use std::{collections::BTreeSet, time::Duration};

use api::event::Envelope;
use async_nats::{
    ConnectOptions,
    jetstream::{self, consumer::pull, stream},
};
use futures::StreamExt;
use prost::Message;
use testkit::{Nats, Options, Suite};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Every message has the attributes of CloudEvents 1.0 in binary mode, which agree with the envelope that is
/// its data, and a subject with service, event type and organization.
#[tokio::test(flavor = "multi_thread")]
async fn messages_are_cloud_events_that_agree_with_their_data() {
    let nats = Nats::start();
    let suite =
        Suite::start_with(Options { nats_url: Some(nats.url()), ..Options::default() }).await;
    let ann = suite.person("ann@example.com").await;
    ann.create_organization("acme").await.unwrap();
    suite.wait_for_log().await;

    let client = async_nats::connect(nats.url()).await.unwrap();
    let stream = jetstream::new(client).get_stream("TENANTRY").await.unwrap();
    let consumer = stream.create_consumer(pull::Config::default()).await.unwrap();
    let mut messages = consumer.fetch().max_messages(1_000).messages().await.unwrap();
    let mut ids = BTreeSet::new();
    while let Some(message) = messages.next().await {
        let message = message.unwrap();
        let headers = message.headers.clone().unwrap();
        let header = |name: &str| headers.get(name).map(ToString::to_string).unwrap_or_default();
        let envelope = Envelope::decode(&*message.payload).unwrap();
        let payload = envelope.event.unwrap();
        let event_type = payload.type_url.rsplit('/').next().unwrap().to_owned();
        assert_eq!(header("ce-specversion"), "1.0");
        assert_eq!(header("ce-id"), envelope.id);
        assert_eq!(header("ce-source"), format!("/tenantry/{}", envelope.source));
        assert_eq!(header("ce-type"), "tenantry.event.v1.Envelope");
        assert_eq!(header("ce-eventtype"), event_type);
        assert_eq!(header("ce-datacontenttype"), "application/protobuf");
        let time = OffsetDateTime::parse(&header("ce-time"), &Rfc3339).unwrap();
        let occurred = envelope.occur_time.unwrap();
        assert_eq!(time.unix_timestamp(), occurred.seconds);
        assert_eq!(i64::from(time.nanosecond()), i64::from(occurred.nanos));
        let resource = envelope.resource.unwrap();
        assert_eq!(header("ce-subject"), format!("{}/{}", resource.kind, resource.id));
        let subject: Vec<&str> = message.subject.split('.').collect();
        let org = if envelope.org_id.is_empty() { "account" } else { &envelope.org_id };
        assert_eq!(subject[..3], ["tenantry", &envelope.source, "v1"]);
        assert_eq!(subject[4], org);
        ids.insert(envelope.id);
    }
    assert!(ids.len() >= 5, "{} events", ids.len());
    suite.finish().await;
}

async fn connect(nats: &Nats, user: &str) -> jetstream::Context {
    let options = ConnectOptions::with_user_and_password(user.to_owned(), user.to_owned());
    let client = options.connect(nats.url()).await.unwrap();
    let mut context = jetstream::new(client);
    context.set_timeout(Duration::from_secs(1));
    context
}

/// The NATS user `reader` of `deploy/nats.conf` reads events with the consumer that `operator` created for
/// it. It cannot publish, create or delete consumers, read with those of services, or delete the stream.
#[tokio::test(flavor = "multi_thread")]
async fn the_nats_user_reader_only_reads() {
    let nats = Nats::start_with_permissions();
    let operator = connect(&nats, "operator").await;
    let config = stream::Config {
        name: "TENANTRY".to_owned(),
        subjects: vec!["tenantry.>".to_owned()],
        ..Default::default()
    };
    let stream = operator.create_stream(config).await.unwrap();
    let durable =
        |name: &str| pull::Config { durable_name: Some(name.to_owned()), ..Default::default() };
    stream.create_consumer(durable("READER")).await.unwrap();
    stream.create_consumer(durable("AUDIT")).await.unwrap();
    let identity = connect(&nats, "identity").await;
    let event = "tenantry.identity.v1.x.account";
    identity.publish(event, "event".into()).await.unwrap().await.unwrap();

    let reader = connect(&nats, "reader").await;
    let stream = reader.get_stream("TENANTRY").await.unwrap();
    let consumer: jetstream::consumer::PullConsumer = stream.get_consumer("READER").await.unwrap();
    let mut messages = consumer.fetch().max_messages(1).messages().await.unwrap();
    let message = messages.next().await.unwrap().unwrap();
    assert_eq!(&*message.payload, b"event");
    message.double_ack().await.unwrap();

    reader.publish(event, "forged".into()).await.unwrap().await.unwrap_err();
    stream.create_consumer(durable("OTHER")).await.unwrap_err();
    stream.delete_consumer("READER").await.err().unwrap();
    stream.get_consumer::<pull::Config>("AUDIT").await.unwrap_err();
    reader.delete_stream("TENANTRY").await.err().unwrap();
    let mut operators = operator.get_stream("TENANTRY").await.unwrap();
    assert_eq!(operators.info().await.unwrap().state.messages, 1);
    operator.publish(event, "forged".into()).await.unwrap().await.unwrap_err();
}
