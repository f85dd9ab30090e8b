//! Several replicas of the log on one database: one signer at a time, and one signed history.

use api::audit::{ExportEntriesRequest, ExportFormat};
use serde_json::json;
use testkit::{Nats, Options, Person, Suite, eventually};

use crate::support::{
    audit_client::AuditClient,
    raw,
    tampering::{back_up, restore, tamper},
};

/// A suite with a NATS server, an organization in it, and the client of its log.
async fn start(nats: &Nats) -> (Suite, AuditClient) {
    let options = Options { nats_url: Some(nats.url()), ..Options::default() };
    let suite = Suite::start_with(options).await;
    let ann = suite.person("ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    let log = AuditClient::new(&suite, &ann, &org).await;
    (suite, log)
}

/// The client of the same log through another replica.
async fn through(replica: &Suite, log: &AuditClient) -> AuditClient {
    let client = replica.client.with_token(&log.owner.token);
    AuditClient::new(replica, &Person { client, ..log.owner.clone() }, &log.org).await
}

async fn create_team(log: &AuditClient) {
    let create = log.org_request(json!({ "name": chassis::id::new().to_string() }));
    log.owner.call_ok("identity.v1.TeamService/CreateTeam", create).await;
}

/// True if the journal of a replica has a head of this size.
fn has_recorded(replica: &Suite, log: &AuditClient, size: u64) -> bool {
    let journal = std::fs::read_to_string(replica.data_dir().join("audit.signed"));
    journal.unwrap_or_default().contains(&format!("{} {size} ", log.org))
}

/// Reason of a refused bundle export.
async fn export_error(log: &AuditClient) -> String {
    let bundle = ExportEntriesRequest { format: ExportFormat::Bundle.into(), ..Default::default() };
    raw::reason(&log.export_as(&log.owner, bundle).await.unwrap_err())
}

/// Largest size of the organization's tree in a checkpoint.
async fn largest_checkpoint(suite: &Suite, log: &AuditClient) -> u64 {
    let sizes = "select coalesce(max(checkpoint.size), 0) from audit.checkpoint
                 join audit.tree on number = checkpoint.tree where org_id = $1";
    let sizes = sqlx::query_scalar(sizes).bind(log.org.parse::<uuid::Uuid>().unwrap());
    let size: i64 = sizes.fetch_one(&suite.pool).await.unwrap();
    size.cast_unsigned()
}

/// each replica records every signed head in its own journal, whichever replica signed it; a replica
/// that starts later records those that it missed.
#[tokio::test(flavor = "multi_thread")]
async fn every_replica_records_every_signed_head() {
    let nats = Nats::start();
    let (first, log) = start(&nats).await;
    let missed = log.checkpoint(&first).await;
    let second = first.replica().await;
    eventually("the head that was missed", async || {
        has_recorded(&second, &log, missed.size).then_some(())
    })
    .await;
    for _ in 0..5 {
        create_team(&log).await;
        let head = log.checkpoint(&first).await;
        for replica in [&first, &second] {
            eventually("the head in the journal", async || {
                has_recorded(replica, &log, head.size).then_some(())
            })
            .await;
        }
    }
    second.stop_replica().await;
    first.finish().await;
}

/// A-19, G-10: a replica with an empty journal signs nothing over entries that a superuser has rewritten
/// together with their hashes, up to the root, after they were signed.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_without_a_journal_signs_no_rewritten_history() {
    let nats = Nats::start();
    let (first, log) = start(&nats).await;
    for _ in 0..5 {
        create_team(&log).await;
    }
    let head = log.checkpoint(&first).await;
    assert!(head.size < 16, "all leaf hashes are in the edge");
    let stopped = first.halt().await;
    let tree = format!("(select number from audit.tree where org_id = '{}')", log.org);
    let rewrite = format!(
        "update audit.entry set leaf = leaf || '\\x6200'::bytea where tree = {tree} and index = 2;
         update audit.tree set edge = overlay(edge placing
             (select sha256('\\x00'::bytea || leaf) from audit.entry where tree = {tree} and index = 2)
             from 65 for 32)
         where number = {tree}"
    );
    tamper(&stopped.pool, &[&rewrite]).await;
    let replica = stopped.start_replica().await;
    let through_replica = through(&replica, &log).await;
    create_team(&through_replica).await;
    eventually("the refusal of the rewritten log", async || {
        let get = log.org_request(json!({}));
        let answer = through_replica.owner.call("audit.v1.LogService/GetCheckpoint", get).await;
        answer.is_err().then_some(())
    })
    .await;
    assert_eq!(export_error(&through_replica).await, "LOG_CORRUPTED");
    // A checkpoint of another log: the replica signs.
    let other = replica.person("bob@example.com").await;
    let other_org = other.create_organization("other").await.unwrap();
    let other_log = AuditClient::new(&replica, &other, &other_org).await;
    eventually("a checkpoint of another log", async || other_log.newest_checkpoint().await).await;
    assert_eq!(largest_checkpoint(&replica, &log).await, head.size);
    replica.stop_replica().await;

    let first = stopped.start().await;
    assert_eq!(export_error(&through(&first, &log).await).await, "LOG_CORRUPTED");
    assert_eq!(largest_checkpoint(&first, &log).await, head.size);
    first.stop_unchecked().await;
}

/// A-19, G-10: a replica that finds a signed head that does not follow one in its journal stops the signing
/// of all replicas. Lists are served, proofs are not.
#[tokio::test(flavor = "multi_thread")]
async fn two_signed_histories_stop_all_signing() {
    let nats = Nats::start();
    let (first, log) = start(&nats).await;
    log.checkpoint(&first).await;
    back_up(&first.pool).await;
    create_team(&log).await;
    let forgotten = log.checkpoint(&first).await;
    let suite_size =
        "select size from audit.tree where org_id = 'ffffffff-ffff-ffff-ffff-ffffffffffff'";
    let forgotten_suite = first.count(suite_size).await;
    let stopped = first.halt().await;
    restore(&stopped.pool).await;
    // The services send again what the restored log lacks; other events take its place here.
    sqlx::raw_sql("truncate identity.outbox").execute(&stopped.pool).await.unwrap();
    let replica = stopped.start_replica().await;
    let through_replica = through(&replica, &log).await;
    let ingested = "update audit.producer set sequence = (select last from identity.outbox_sequence
                        where outbox_sequence.org_id = tree.org_id)
                    from audit.tree where number = producer.tree and source = 'identity'
                        and exists (select from identity.outbox_sequence
                                    where outbox_sequence.org_id = tree.org_id)";
    sqlx::raw_sql(ingested).execute(&replica.pool).await.unwrap();
    eventually("a longer second history", async || {
        create_team(&through_replica).await;
        let size = largest_checkpoint(&replica, &log).await;
        let is_longer = replica.count(suite_size).await > forgotten_suite;
        (size > forgotten.size && is_longer).then_some(())
    })
    .await;
    let first = stopped.start().await;
    eventually("the stop of signing", async || {
        let stops = replica.count("select count(*) from audit.signing_stop").await;
        (stops == 1).then_some(())
    })
    .await;
    for replica in [&first, &replica] {
        let log = through(replica, &log).await;
        assert_eq!(export_error(&log).await, "SIGNING_STOPPED");
        let public = "audit.v1.LogService/GetSuiteCheckpoint";
        assert_eq!(log.owner.call_err(public, json!({})).await, "SIGNING_STOPPED");
    }
    assert_eq!(first.count("select count(*) from audit.signer where holder is not null").await, 0);
    let found = first.fsck_and_release().await;
    assert!(!found.differences.is_empty() && found.released.is_empty(), "{found}");
    replica.stop_replica().await;
    first.stop_unchecked().await;
}

/// a replica without the lease signs nothing, and one that has taken it signs after every running
/// replica has confirmed its fencing token.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_holder_of_the_lease_signs() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    let log = AuditClient::new(&suite, &ann, &org).await;
    let head = log.checkpoint(&suite).await;
    // Another replica, which does not stop, takes the lease and signs nothing.
    let take_over = "insert into audit.signer_replica values
                         ('00000000-0000-0000-0000-000000000001', 0, now() + interval '1 day');
                     update audit.signer
                     set holder = '00000000-0000-0000-0000-000000000001', token = token + 1";
    sqlx::raw_sql(take_over).execute(&suite.pool).await.unwrap();
    create_team(&log).await;
    suite.wait_for_log().await;
    let tokens = "select count(*) from audit.signer_replica, audit.signer where confirmed = token";
    eventually("the confirmation of the token", async || {
        (suite.count(tokens).await == 1).then_some(())
    })
    .await;
    assert_eq!(largest_checkpoint(&suite, &log).await, head.size);
    // It releases the lease, but has not confirmed the token of the next holder.
    sqlx::raw_sql("update audit.signer set holder = null").execute(&suite.pool).await.unwrap();
    let taken = "select count(*) from audit.signer
                 where holder <> '00000000-0000-0000-0000-000000000001'";
    eventually("the next holder", async || (suite.count(taken).await == 1).then_some(())).await;
    assert_eq!(largest_checkpoint(&suite, &log).await, head.size);
    let confirm = "update audit.signer_replica set confirmed = (select token from audit.signer)";
    sqlx::raw_sql(confirm).execute(&suite.pool).await.unwrap();
    let newer = log.checkpoint(&suite).await;
    assert!(newer.size > head.size);
    sqlx::raw_sql("delete from audit.signer_replica").execute(&suite.pool).await.unwrap();
    suite.finish().await;
}
