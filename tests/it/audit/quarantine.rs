//! Damage of the stored log of one organization: all other logs continue, and the log returns after a repair.

use api::audit::{ExportEntriesRequest, ExportFormat};
use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool};
use testkit::{Person, Suite, eventually};

use crate::support::{
    audit_client::AuditClient,
    raw,
    tampering::{back_up, tamper},
};

/// A change of one tree, `{tree}` in the statements, and its reversal.
struct Damage {
    /// Code in the metadata of the error.
    cause: &'static str,
    change: &'static str,
    repair: &'static str,
    /// The call that finds the damage.
    found_by: FoundBy,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FoundBy {
    /// The next event of the organization.
    Append,
    /// The next export.
    Export,
}

/// Kinds of damage. The copy in the schema `kept` has the state before it.
const DAMAGES: [Damage; 7] = [
    Damage {
        cause: "ADDED_ENTRY",
        change: "insert into audit.entry (tree, actor, resource, type, action, index, received_at, event_id,
                     outcome, flags, leaf)
                 select tree, actor, resource, type, action,
                     (select size from audit.tree where number = {tree}), received_at,
                     gen_random_uuid(), outcome, flags, leaf
                 from audit.entry where tree = {tree} and index = 3",
        repair: "delete from audit.entry where tree = {tree}
                     and index >= (select size from audit.tree where number = {tree})",
        found_by: FoundBy::Append,
    },
    Damage {
        cause: "REWRITTEN",
        change: "update audit.tree set edge = set_byte(edge, 0, get_byte(edge, 0) # 1) where number = {tree}",
        repair: "update audit.tree set edge = set_byte(edge, 0, get_byte(edge, 0) # 1) where number = {tree}",
        found_by: FoundBy::Append,
    },
    Damage {
        cause: "MALFORMED_EDGE",
        change: "update audit.tree set edge = substr(edge, 33) where number = {tree}",
        repair: "update audit.tree set edge = kept.tree.edge from kept.tree
                 where kept.tree.number = audit.tree.number and audit.tree.number = {tree}",
        found_by: FoundBy::Append,
    },
    Damage {
        cause: "CHANGED_ENTRY",
        change: "update audit.entry set leaf = set_byte(leaf, 9, get_byte(leaf, 9) # 1)
                 where tree = {tree} and index = 5",
        repair: "update audit.entry set leaf = set_byte(leaf, 9, get_byte(leaf, 9) # 1)
                 where tree = {tree} and index = 5",
        found_by: FoundBy::Export,
    },
    Damage {
        cause: "MISSING_ENTRY",
        change: "delete from audit.entry where tree = {tree} and index = 5",
        repair: "insert into audit.entry select * from kept.entry where tree = {tree} and index = 5",
        found_by: FoundBy::Export,
    },
    Damage {
        cause: "CHANGED_ENTRY",
        change: "update audit.tile set hashes = set_byte(hashes, 40, get_byte(hashes, 40) # 1)
                 where tree = {tree} and level = 0 and index = 0",
        repair: "update audit.tile set hashes = set_byte(hashes, 40, get_byte(hashes, 40) # 1)
                 where tree = {tree} and level = 0 and index = 0",
        found_by: FoundBy::Export,
    },
    Damage {
        cause: "MISSING_HASHES",
        change: "update audit.tile set hashes = substr(hashes, 1, 100)
                 where tree = {tree} and level = 0 and index = 0",
        repair: "update audit.tile set hashes = kept.tile.hashes from kept.tile
                 where audit.tile.tree = {tree} and audit.tile.level = 0 and audit.tile.index = 0
                     and kept.tile.tree = {tree} and kept.tile.level = 0 and kept.tile.index = 0",
        found_by: FoundBy::Export,
    },
];

async fn create_team(owner: &Person, org: &str) {
    let name = chassis::id::new().to_string();
    let create = json!({ "orgId": org, "name": name });
    owner.call_ok("identity.v1.TeamService/CreateTeam", create).await;
}

/// Result of a query for one number, about the organization `$1`.
async fn count(pool: &PgPool, sql: &'static str, org: &str) -> i64 {
    let org: uuid::Uuid = org.parse().unwrap();
    sqlx::query_scalar(sql).bind(org).fetch_one(pool).await.unwrap()
}

/// Code and reason of a refused bundle export.
async fn export_error(log: &AuditClient) -> (tonic::Code, String) {
    let bundle = ExportEntriesRequest { format: ExportFormat::Bundle.into(), ..Default::default() };
    let status = log.export_as(&log.owner, bundle).await.unwrap_err();
    (status.code(), raw::reason(&status))
}

/// a damaged log is put into quarantine: its events wait, it is not exported, and all other logs
/// continue. After the repair and a check it continues without a gap.
#[tokio::test(flavor = "multi_thread")]
async fn damage_of_one_log_is_contained_and_repaired() {
    let suite = Suite::start().await;
    let owner = suite.person("owner@example.com").await;
    let healthy = owner.create_organization("healthy").await.unwrap();
    let healthy = AuditClient::new(&suite, &owner, &healthy).await;
    for (n, damage) in DAMAGES.iter().enumerate() {
        let org = owner.create_organization(&format!("damaged-{n}")).await.unwrap();
        for _ in 0..20 {
            create_team(&owner, &org).await;
        }
        let log = AuditClient::new(&suite, &owner, &org).await;
        log.checkpoint(&suite).await;
        let tree = format!("(select number from audit.tree where org_id = '{org}')");
        sqlx::raw_sql("drop schema if exists kept cascade").execute(&suite.pool).await.unwrap();
        back_up(&suite.pool).await;
        tamper(&suite.pool, &[&damage.change.replace("{tree}", &tree)]).await;
        if damage.found_by == FoundBy::Export {
            let refused = export_error(&log).await;
            assert_eq!(refused, (tonic::Code::DataLoss, "LOG_CORRUPTED".to_owned()));
        }
        create_team(&owner, &org).await;
        let cause = "select cause from audit.quarantine where org_id = $1";
        let cause = eventually("the quarantine", async || {
            let cause = sqlx::query_scalar::<_, String>(cause);
            let cause = cause.bind(org.parse::<uuid::Uuid>().unwrap());
            cause.fetch_optional(&suite.pool).await.unwrap()
        })
        .await;
        assert_eq!(cause, damage.cause, "damage {n}");
        let waiting = "select count(*) from audit.deferred_event where org_id = $1";
        eventually("the deferral of the event", async || {
            (count(&suite.pool, waiting, &org).await > 0).then_some(())
        })
        .await;

        let before = healthy.newest_checkpoint().await.map_or(0, |it| it.size);
        create_team(&owner, &healthy.org).await;
        eventually("a checkpoint of the other log", async || {
            healthy.newest_checkpoint().await.filter(|it| it.size > before)
        })
        .await;
        healthy.verify(&healthy.export(ExportFormat::Bundle).await).unwrap();
        assert_eq!(export_error(&log).await, (tonic::Code::DataLoss, "LOG_CORRUPTED".to_owned()));
        let list = log.org_request(json!({}));
        let reason = owner.call_err("audit.v1.AuditService/ListEntries", list).await;
        assert_eq!(reason, "LOG_CORRUPTED");
        let not_repaired = suite.fsck_and_release().await;
        assert!(not_repaired.released.is_empty(), "damage {n}: {not_repaired}");

        tamper(&suite.pool, &[&damage.repair.replace("{tree}", &tree)]).await;
        let repaired = suite.fsck_and_release().await;
        assert!(repaired.differences.is_empty(), "damage {n}: {repaired}");
        assert_eq!(repaired.released, [format!("tree {org}")]);
        log.checkpoint(&suite).await;
        log.verify(&log.export(ExportFormat::Bundle).await).unwrap();
    }
    assert_eq!(suite.count("select count(*) from audit.dead_letter").await, 0);
    suite.finish().await;
}

/// a service that sends events of a damaged log directly, without the broker, may delete them: the log
/// has stored them until the repair.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_damaged_log_are_confirmed_once_they_are_stored() {
    let suite = Suite::start().await;
    let owner = suite.person("owner@example.com").await;
    let org = owner.create_organization("acme").await.unwrap();
    let log = AuditClient::new(&suite, &owner, &org).await;
    log.checkpoint(&suite).await;
    back_up(&suite.pool).await;
    let cut = format!("update audit.tree set edge = '' where org_id = '{org}'");
    tamper(&suite.pool, &[&cut]).await;
    create_team(&owner, &org).await;
    let events = "select event_id from audit.deferred_event where org_id = $1";
    let event_id = eventually("the deferral of the event", async || {
        let event = sqlx::query_scalar::<_, uuid::Uuid>(events);
        let event = event.bind(org.parse::<uuid::Uuid>().unwrap());
        event.fetch_optional(&suite.pool).await.unwrap()
    })
    .await;
    let mut ingest =
        api::audit::ingest_service_client::IngestServiceClient::new(suite.project_to_audit.clone());
    let envelope = "select envelope from audit.deferred_event where event_id = $1";
    let envelope: Vec<u8> =
        sqlx::query_scalar(envelope).bind(event_id).fetch_one(&suite.pool).await.unwrap();
    let unknown = chassis::id::new().to_string();
    let confirm = api::audit::ConfirmRequest { event_ids: vec![event_id.to_string(), unknown] };
    assert_eq!(ingest.confirm(confirm).await.unwrap().into_inner().missing, [1]);
    let restore = "update audit.tree set edge = kept.tree.edge from kept.tree
                   where kept.tree.number = audit.tree.number and audit.tree.edge = ''";
    tamper(&suite.pool, &[restore]).await;
    suite.fsck_and_release().await;
    log.checkpoint(&suite).await;
    let logged = AssertSqlSafe("select count(*) from audit.entry where event_id = $1");
    let logged: i64 =
        sqlx::query_scalar(logged).bind(event_id).fetch_one(&suite.pool).await.unwrap();
    assert_eq!(logged, 1, "{} bytes", envelope.len());
    suite.finish().await;
}
