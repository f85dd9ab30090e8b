//! Receipts, checkpoints and consistency proofs.

use api::{
    audit::{self as pb, log_service_client::LogServiceClient},
    identity::{CreateTeamRequest, team_service_client::TeamServiceClient},
};
use serde_json::json;
use testkit::Suite;
use verifier::{note, seen, tree};

use crate::support::{
    audit_client::{AuditClient, as_person},
    world::World,
};

/// Creates a team; returns the event ids in the metadata of the response.
async fn create_team(log: &AuditClient, person: &testkit::Person, request_id: &str) -> Vec<String> {
    let create = CreateTeamRequest {
        org_id: log.org.clone(),
        name: "crew".to_owned(),
        request_id: request_id.to_owned(),
        ..Default::default()
    };
    let mut teams = TeamServiceClient::new(log.channel.clone());
    let answer = teams.create_team(as_person(person, create)).await.unwrap();
    let ids = answer.metadata().get("tenantry-event-ids").unwrap().to_str().unwrap();
    ids.split(',').map(str::to_owned).collect()
}

/// G-11: the actor of an event gets a receipt, which verifies offline; others need a permission.
/// A repeated request id returns the same event id.
#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_proves_a_call() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    let request_id = chassis::id::new().to_string();
    let ids = create_team(&log, &world.admin, &request_id).await;
    assert_eq!(ids.len(), 1, "one primary event");
    assert_eq!(create_team(&log, &world.admin, &request_id).await, ids, "the same answer");
    let receipt = log.receipt(&world.admin, &ids[0]).await;
    let (head, proven) = receipt.verify(&log.pins).unwrap();
    assert_eq!(proven.event, "tenantry.identity.v1.TeamCreated");
    assert!(proven.actor.contains("admin@example.com"), "{}", proven.actor);
    assert!(proven.index < head.size);
    for other in [&world.owner, &world.viewer] {
        let get = json!({ "eventId": ids[0] });
        assert_eq!(other.call_err("audit.v1.LogService/GetReceipt", get).await, "NOT_FOUND");
    }
    // The Owner has the permission to prove any entry.
    let get = log.org_request(json!({ "eventId": ids[0] }));
    world.owner.call_ok("audit.v1.LogService/GetInclusionProof", get.clone()).await;
    let reason = world.viewer.call_err("audit.v1.LogService/GetInclusionProof", get).await;
    assert_eq!(reason, "MISSING_PERMISSION");
    suite.finish().await;
}

/// each checkpoint is consistent with earlier ones and is a leaf of the tree of the suite,
/// whose checkpoints are public.
#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_are_consistent_and_in_the_tree_of_the_suite() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    let older = log.checkpoint(&suite).await;
    world.create_team("crew", &[&world.viewer]).await;
    let newer = log.checkpoint(&suite).await;
    let request = log.org_request(json!({ "fromSize": older.size, "toSize": newer.size }));
    let proof = world.owner.call_ok("audit.v1.LogService/GetConsistencyProof", request).await;
    let proof = seen::ConsistencyProof::from_json(&proof).unwrap();
    let mut known = seen::SeenCheckpoints::default();
    known.record(&older);
    known.check(&newer, None, Some(&proof)).unwrap();
    let beyond = log.org_request(json!({ "fromSize": 1, "toSize": newer.size + 1000 }));
    let reason = world.owner.call_err("audit.v1.LogService/GetConsistencyProof", beyond).await;
    assert_eq!(reason, "INVALID_FIELD");

    let file = log.export(pb::ExportFormat::Bundle).await;
    let in_suite = log.verify(&file).unwrap().suite.unwrap();
    let pins = verifier::Pins { org_id: Some("suite".to_owned()), ..log.pins.clone() };
    let mut client = LogServiceClient::new(log.channel.clone());
    let newest = client.get_suite_checkpoint(pb::GetSuiteCheckpointRequest {}).await.unwrap();
    let newest = note::open(&newest.into_inner().checkpoint, &pins).unwrap();
    let request = pb::GetSuiteConsistencyProofRequest {
        from_size: in_suite.size.cast_signed(),
        to_size: newest.size.cast_signed(),
    };
    let proof = client.get_suite_consistency_proof(request).await.unwrap().into_inner().hashes;
    let proof: Vec<tree::Hash> = proof.into_iter().map(|it| it.try_into().unwrap()).collect();
    assert!(tree::verify_consistency(
        in_suite.size,
        &in_suite.root,
        newest.size,
        &newest.root,
        &proof
    ));
    suite.finish().await;
}
