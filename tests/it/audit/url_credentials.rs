//! Credentials in URLs of events that an older version recorded.

use api::{
    audit::{self as pb, AppendRequest, ExportFormat, ingest_service_client::IngestServiceClient},
    event::{Actor, ActorKind, Envelope, Resource},
    project::{Project, ProjectRepositoryChanged},
};
use data_encoding::BASE64;
use prost::{Message, Name};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::{Suite, eventually};

use crate::support::{
    audit_client::AuditClient,
    tiles_client::TilesClient,
    world::{World, text},
};

const SECRET: &str = "s3cret";

/// An event of the project service about a change by the Owner.
fn old_event(world: &World, sequence: i64, url: &str) -> Envelope {
    let project =
        |url: &str| Some(Project { repository_url: url.to_owned(), ..Default::default() });
    let event = ProjectRepositoryChanged {
        before: project("https://git.example.com/a"),
        after: project(url),
    };
    Envelope {
        id: chassis::id::new().to_string(),
        source: "project".to_owned(),
        org_id: world.org.clone(),
        project_id: world.project.clone(),
        resource: Some(Resource {
            kind: "project".to_owned(),
            id: world.project.clone(),
            ..Default::default()
        }),
        actor: Some(Actor {
            kind: ActorKind::User.into(),
            id: world.owner.user_id.clone(),
            ..Default::default()
        }),
        occur_time: Some(chassis::timestamp(chassis::Clock::default().now())),
        event: Some(prost_types::Any {
            type_url: ProjectRepositoryChanged::type_url(),
            value: event.encode_to_vec(),
        }),
        sequence,
        ..Default::default()
    }
}

/// True if a line of a bundle has a secret in its leaf.
fn leaf_has_secret(line: &str) -> bool {
    let line: Value = serde_json::from_str(line).unwrap();
    let leaf = line["leaf"].as_str().unwrap_or_default();
    let leaf = BASE64.decode(leaf.as_bytes()).unwrap();
    leaf.windows(SECRET.len()).any(|it| it == SECRET.as_bytes())
}

/// AU-4: lists and exports mask the credential, proofs and bundles do not have the leaf, and every proof
/// still verifies, because the leaf has not changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_credential_in_an_old_event_is_not_shown() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    let before = log.checkpoint(&suite).await;
    let report = log.verify(&log.export(ExportFormat::Bundle).await).unwrap();
    let next = report.sources["project"].last + 1;
    let url = format!("https://ann:{SECRET}@git.example.com/a?token={SECRET}");
    let old = old_event(&world, next, &url);
    let later = old_event(&world, next + 1, "https://git.example.com/b");
    let envelopes = [&old, &later].map(Message::encode_to_vec).to_vec();
    let mut ingest = IngestServiceClient::new(suite.project_to_audit.clone());
    let held = ingest.append(AppendRequest { envelopes }).await.unwrap().into_inner();
    assert!(held.held_event_ids.is_empty(), "{held:?}");
    // The outbox does not have these events, so the usual wait for the log does not end.
    eventually("a checkpoint with the events", async || {
        log.newest_checkpoint().await.filter(|it| it.size >= before.size + 2)
    })
    .await;

    let changes = log.entries(json!({ "action": "project.repository_changed" })).await;
    let [_, shown] = changes.as_slice() else { panic!("{changes:?}") };
    let masked = "https://***@git.example.com/a?***";
    assert_eq!(shown["envelope"]["event"]["after"]["repositoryUrl"], masked);
    assert_eq!(shown["changes"][0]["after"], format!("\"{masked}\""));
    for format in [ExportFormat::Json, ExportFormat::Csv, ExportFormat::Ocsf] {
        let file = String::from_utf8(log.export(format).await).unwrap();
        assert!(!file.contains(SECRET), "{format:?}");
    }
    let filter = pb::EntryFilter { action: "project.*".to_owned(), ..Default::default() };
    for filter in [None, Some(filter)] {
        let request = pb::ExportEntriesRequest {
            format: ExportFormat::Bundle.into(),
            filter: filter.clone(),
            ..Default::default()
        };
        let (file, _) = log.export_as(&world.owner, request).await.unwrap();
        let text = str::from_utf8(&file).unwrap();
        assert!(!text.lines().any(leaf_has_secret), "{filter:?}");
        let report = log.verify(&file).unwrap();
        assert_eq!((report.complete, report.hash_only), (filter.is_none(), 1));
    }
    let get = json!({ "eventId": old.id });
    for (method, get) in [("GetInclusionProof", log.org_request(get.clone())), ("GetReceipt", get)]
    {
        let reason = world.owner.call_err(&format!("audit.v1.LogService/{method}"), get).await;
        assert_eq!(reason, "LEAF_WITHHELD", "{method}");
    }
    let tiles = TilesClient::new(&suite, &world.owner, &world.org);
    let index: u64 = text(&shown["index"]).parse().unwrap();
    let refused = tiles.get(Method::GET, &format!("tile/entries/000.p/{}", index + 1)).await;
    assert_eq!(refused.status, StatusCode::NOT_FOUND);
    assert_eq!(refused.header("tenantry-hidden-entries"), format!("{index}-{index}"));
    tiles.get_ok(&format!("tile/entries/000.p/{index}")).await;
    // Counter-check: the leaf is as it was received.
    let stored = "select count(*) from audit.entry where position('s3cret'::bytea in leaf) > 0";
    assert_eq!(suite.count(stored).await, 1);
    suite.stop_unchecked().await;
}
