//! Proofs: receipts of calls, heads, and what proves that a newer head continues an older one.

use api::{
    audit::{self as pb, log_service_client::LogServiceClient},
    identity::{CreateTeamRequest, team_service_client::TeamServiceClient},
};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use data_encoding::{BASE64, HEXLOWER};
use serde_json::json;
use testkit::{Options, Suite};
use verifier::{note, seen, tree};

use crate::{
    ledger::{Ledger, as_person},
    world::World,
};

/// Creates a team by gRPC; answers the events that the answer names.
async fn create_team(ledger: &Ledger, person: &testkit::Person, request_id: &str) -> Vec<String> {
    let create = CreateTeamRequest {
        org_id: ledger.org.clone(),
        name: "crew".to_owned(),
        request_id: request_id.to_owned(),
        ..Default::default()
    };
    let mut teams = TeamServiceClient::new(ledger.channel.clone());
    let answer = teams.create_team(as_person(person, create)).await.unwrap();
    let ids = answer.metadata().get("tenantry-event-ids").unwrap().to_str().unwrap();
    ids.split(',').map(str::to_owned).collect()
}

/// G-11: whoever did something gets a receipt of it, which proves it offline; nobody else does
/// without the permission. A repeated call names the same event.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_made_is_proven_by_its_receipt() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let ledger = Ledger::new(&suite, &world.owner, &world.org).await;
    let request_id = chassis::id::new().to_string();
    let ids = create_team(&ledger, &world.admin, &request_id).await;
    assert_eq!(ids.len(), 1, "one primary event");
    assert_eq!(create_team(&ledger, &world.admin, &request_id).await, ids, "the same answer");
    let receipt = ledger.receipt(&world.admin, &ids[0]).await;
    let (head, proven) = receipt.verify(&ledger.pins).unwrap();
    assert_eq!(proven.event, "tenantry.identity.v1.TeamCreated");
    assert!(proven.actor.contains("admin@example.com"), "{}", proven.actor);
    assert!(proven.index < head.size);
    for other in [&world.owner, &world.viewer] {
        let get = json!({ "eventId": ids[0] });
        assert_eq!(other.refused("audit.v1.LogService/GetReceipt", get).await, "NOT_FOUND");
    }
    // The Owner has the permission to prove any entry.
    let get = ledger.here(json!({ "eventId": ids[0] }));
    world.owner.tell("audit.v1.LogService/GetInclusionProof", get.clone()).await;
    let refused = world.viewer.refused("audit.v1.LogService/GetInclusionProof", get).await;
    assert_eq!(refused, "MISSING_PERMISSION");
    suite.finish().await;
}

/// each head continues the one before; each is a leaf of the suite's tree, whose heads
/// continue each other, too. Anybody may watch that tree.
#[tokio::test(flavor = "multi_thread")]
async fn every_head_continues_the_one_before_and_is_in_the_suites_tree() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let ledger = Ledger::new(&suite, &world.owner, &world.org).await;
    let older = ledger.head(&suite).await;
    world.team("crew", &[&world.viewer]).await;
    let newer = ledger.head(&suite).await;
    let ask = ledger.here(json!({ "fromSize": older.size, "toSize": newer.size }));
    let proof = world.owner.tell("audit.v1.LogService/GetConsistencyProof", ask).await;
    let proof = seen::Consistency::from_json(&proof).unwrap();
    let mut known = seen::Seen::default();
    known.remember(&older);
    known.check(&newer, None, Some(&proof)).unwrap();
    let beyond = ledger.here(json!({ "fromSize": 1, "toSize": newer.size + 1000 }));
    let refused = world.owner.refused("audit.v1.LogService/GetConsistencyProof", beyond).await;
    assert_eq!(refused, "INVALID_FIELD");

    let file = ledger.export(pb::ExportFormat::Bundle).await;
    let in_suite = ledger.verify(&file).unwrap().suite.unwrap();
    let pins = verifier::Pins { org_id: Some("suite".to_owned()), ..ledger.pins.clone() };
    let mut anybody = LogServiceClient::new(ledger.channel.clone());
    let now = anybody.get_suite_checkpoint(pb::GetSuiteCheckpointRequest {}).await.unwrap();
    let now = note::open(&now.into_inner().checkpoint, &pins).unwrap();
    let (from_size, to_size) = (in_suite.size.cast_signed(), now.size.cast_signed());
    let ask = pb::GetSuiteConsistencyProofRequest { from_size, to_size };
    let proof = anybody.get_suite_consistency_proof(ask).await.unwrap().into_inner().hashes;
    let proof: Vec<tree::Hash> = proof.into_iter().map(|it| it.try_into().unwrap()).collect();
    assert!(tree::continues(in_suite.size, &in_suite.root, now.size, &now.root, &proof));
    suite.finish().await;
}

/// C2SP tlog-cosignature: the signature of a witness that the operator has named is taken under a head that
/// this log has signed, and shown; nobody else's, and under nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_witness_signs_the_suites_head() {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap();
    let public = [&[4], pair.public_key().as_ref()].concat();
    let id = chassis::key::hash(&[b"w.example\n", public.as_slice()].concat())[..4].to_vec();
    let key = format!("w.example+{}+{}", HEXLOWER.encode(&id), BASE64.encode(&public));
    let options = Options { witness_keys: vec![key.clone()], ..Options::default() };
    let suite = Suite::start_with(options).await;
    let ann = suite.person("ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    let ledger = Ledger::new(&suite, &ann, &org).await;
    ledger.head(&suite).await;
    let mut log = LogServiceClient::new(ledger.channel.clone());
    let now = log.get_suite_checkpoint(pb::GetSuiteCheckpointRequest {}).await.unwrap();
    let note = now.into_inner().checkpoint;
    let cosign = |note: &str| {
        let text = &note[..=note.rfind("\n\n").unwrap()];
        let signed = pair.sign(format!("cosignature/v1\ntime 7\n{text}").as_bytes());
        let line = [&id[..], &7_u64.to_be_bytes(), signed.as_ref()].concat();
        format!("{note}\u{2014} w.example {}\n", BASE64.encode(&line))
    };
    let add = |checkpoint: String| pb::AddCosignatureRequest { checkpoint };
    let taken = log.add_cosignature(add(cosign(&note))).await.unwrap().into_inner();
    assert_eq!(taken.witnesses, 1);
    let shown = log.get_suite_checkpoint(pb::GetSuiteCheckpointRequest {}).await.unwrap();
    assert_eq!(shown.into_inner().witnessed_checkpoint, cosign(&note));
    let refused = log.add_cosignature(add(note.clone())).await.unwrap_err();
    assert_eq!(crate::raw::reason(&refused), "WITNESS_UNKNOWN");
    let forged = note.replacen("suite\n", "suite\n9", 1);
    let refused = log.add_cosignature(add(cosign(&forged))).await.unwrap_err();
    assert_eq!(crate::raw::reason(&refused), "CHECKPOINT_UNKNOWN");
    let keys = log.get_verifier_keys(pb::GetVerifierKeysRequest {}).await.unwrap().into_inner();
    assert_eq!(keys.witness_keys, [key]);
    suite.finish().await;
}
