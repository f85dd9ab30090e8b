//! Check of the whole log by time and on request, with its result at the AdminService.

use api::admin::{FsckRun, GetIntegrityRequest, GetIntegrityResponse, RunFsckRequest};
use chassis::clock::Duration;
use serde_json::json;
use testkit::{Options, Suite, eventually};
use tonic::Code;

use crate::support::{
    admin_client::{Admin, connect},
    audit_client::AuditClient,
    tampering::tamper,
};

async fn integrity(admin: &Admin) -> GetIntegrityResponse {
    admin.clone().get_integrity(GetIntegrityRequest {}).await.unwrap().into_inner()
}

/// Waits for the end of the newest of `count` runs.
async fn ended_run(admin: &Admin, count: usize) -> FsckRun {
    eventually("the end of the check", async || {
        let runs = integrity(admin).await.runs;
        let newest = runs.first().filter(|it| it.end_time.is_some())?;
        (runs.len() == count).then(|| newest.clone())
    })
    .await
}

/// The timer finds a flipped byte, and puts only this log into quarantine until it is repaired.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_is_found_by_the_timer() {
    let options = Options { fsck_interval_s: 24 * 3600, ..Options::default() };
    let suite = Suite::start_with(options).await;
    let admin = connect(suite.data_dir()).await;
    let first = ended_run(&admin, 1).await;
    assert_eq!((first.finding_count, first.error.as_str()), (0, ""));

    let owner = suite.person("owner@example.com").await;
    let healthy = owner.create_organization("healthy").await.unwrap();
    let damaged = owner.create_organization("damaged").await.unwrap();
    for n in 0..10 {
        let create = json!({ "orgId": damaged, "name": format!("team {n}") });
        owner.call_ok("identity.v1.TeamService/CreateTeam", create).await;
    }
    AuditClient::new(&suite, &owner, &damaged).await.checkpoint(&suite).await;
    let flip = format!(
        "update audit.entry set leaf = set_byte(leaf, 9, get_byte(leaf, 9) # 1)
         where tree = (select number from audit.tree where org_id = '{damaged}') and index = 5"
    );
    tamper(&suite.pool, &[&flip]).await;
    let before = integrity(&admin).await;
    assert_eq!(before.runs.len(), 1, "the next check is not due");
    assert!(before.next_time.unwrap().seconds > first.end_time.unwrap().seconds + 23 * 3600);

    suite.clock.advance(Duration::hours(25));
    let run = ended_run(&admin, 2).await;
    assert!(run.finding_count > 0, "{run:?}");
    assert!(run.entries > 10 && run.trees >= 3, "{run:?}");
    let found = integrity(&admin).await;
    let difference = "entry 5 was changed: its bytes do not match the leaf hash";
    assert!(found.findings.contains(&format!("tree {damaged}: {difference}")), "{found:?}");
    assert!(found.findings.iter().all(|it| it.contains(&damaged)), "{found:?}");
    let [restriction] = &*found.restrictions else { panic!("{found:?}") };
    assert!(restriction.contains(&damaged) && restriction.contains("FAILED_CHECK"), "{found:?}");
    let owner = owner.sign_in_again().await;
    let list = json!({ "orgId": damaged });
    let reason = owner.call_err("audit.v1.AuditService/ListEntries", list).await;
    assert_eq!(reason, "LOG_CORRUPTED");
    owner.call_ok("audit.v1.AuditService/ListEntries", json!({ "orgId": healthy })).await;

    tamper(&suite.pool, &[&flip]).await;
    let repaired = suite.fsck_and_release().await;
    assert_eq!(repaired.released, [format!("tree {damaged}")]);
    suite.clock.advance(Duration::hours(25));
    let run = ended_run(&admin, 3).await;
    assert_eq!((run.finding_count, run.error.as_str()), (0, ""));
    let healed = integrity(&admin).await;
    assert!(healed.findings.is_empty() && healed.restrictions.is_empty(), "{healed:?}");
    suite.finish().await;
}

/// One replica checks at a time. Another one ends the check of a replica that has stopped without notice.
#[tokio::test(flavor = "multi_thread")]
async fn one_replica_checks_at_a_time() {
    let suite = Suite::start().await;
    let mut admin = connect(suite.data_dir()).await;
    assert!(integrity(&admin).await.next_time.is_none(), "no check is started by time");
    let stopped = "insert into audit.fsck_run (id, started_at, seen_at)
                   values (gen_random_uuid(), now(), now())";
    sqlx::raw_sql(stopped).execute(&suite.pool).await.unwrap();
    let error = admin.run_fsck(RunFsckRequest {}).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    suite.clock.advance(Duration::minutes(2));
    admin.run_fsck(RunFsckRequest {}).await.unwrap();
    let run = ended_run(&admin, 2).await;
    assert_eq!((run.finding_count, run.error.as_str()), (0, ""));
    let runs = integrity(&admin).await.runs;
    assert_eq!(runs[1].error, "the replica that ran it has stopped");
    suite.finish().await;
}

/// A check beside a load, in several slices and with entries that arrive between them, finds nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_beside_a_load_finds_nothing() {
    let suite = Suite::start().await;
    let mut admin = connect(suite.data_dir()).await;
    let owner = suite.person("owner@example.com").await;
    let org = owner.create_organization("acme").await.unwrap();
    let load = {
        let (owner, org) = (owner.clone(), org.clone());
        async move {
            for n in 0..1_300 {
                let create = json!({ "orgId": org, "name": format!("team {n}") });
                owner.call_ok("identity.v1.TeamService/CreateTeam", create).await;
            }
        }
    };
    let load = tokio::spawn(load);
    let mut count = 0;
    while !load.is_finished() {
        admin.run_fsck(RunFsckRequest {}).await.unwrap();
        count += 1;
        let run = ended_run(&admin, count).await;
        assert_eq!((run.finding_count, run.error.as_str()), (0, ""), "check {count}");
    }
    load.await.unwrap();
    suite.wait_for_log().await;
    admin.run_fsck(RunFsckRequest {}).await.unwrap();
    let run = ended_run(&admin, count + 1).await;
    assert!(run.entries > 1_300 && run.finding_count == 0, "{run:?}");
    assert!(count > 1, "a check ran beside the load");
    suite.finish().await;
}
