//! A damaged key of one person: the log of everybody else continues, and nothing of that person is lost.

use serde_json::{Value, json};
use testkit::{Person, Suite};
use uuid::Uuid;

use crate::support::{
    audit_client::AuditClient,
    world::{World, new_member},
};

/// Names of the actors of the entries with an action, oldest first.
async fn actors(log: &AuditClient, action: &str) -> Vec<Value> {
    let entries = log.entries(json!({ "action": action })).await;
    entries.iter().rev().map(|it| it["envelope"]["actor"]["email"].clone()).collect()
}

async fn create_team(person: &Person, org: &str, name: &str) {
    let create = json!({ "orgId": org, "name": name });
    person.call_ok("identity.v1.TeamService/CreateTeam", create).await;
}

/// a key that cannot be decrypted makes the values of its person unreadable and nothing else. Events
/// are appended meanwhile; after the repair everything is readable, and the erasure reaches everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_key_of_one_person_does_not_stop_the_log() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let ann = new_member(&suite, &world.owner, &world.org, "ann@example.com", "ADMIN").await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    create_team(&ann, &world.org, "before").await;
    suite.wait_for_log().await;
    let id: Uuid = ann.user_id.parse().unwrap();
    let key = "select sealed from audit.person where id = $1";
    let key: Vec<u8> = sqlx::query_scalar(key).bind(id).fetch_one(&suite.pool).await.unwrap();
    let set_key = async |sealed: &[u8]| {
        let update = "update audit.person set sealed = $2 where id = $1";
        let update = sqlx::query(update).bind(id).bind(sealed).execute(&suite.pool).await.unwrap();
        assert_eq!(update.rows_affected(), 1);
    };
    let mut damaged = key.clone();
    damaged[20] ^= 1;
    set_key(&damaged).await;

    create_team(&ann, &world.org, "during").await;
    create_team(&world.owner, &world.org, "of somebody else").await;
    suite.wait_for_log().await;
    let owner = json!(world.owner.email);
    let found = actors(&log, "team.created").await;
    assert_eq!(found, [json!("unreadable"), json!(ann.email), owner.clone()]);
    let findings = suite.fsck().await;
    assert!(findings.differences.is_empty(), "{findings}");
    assert_eq!(findings.unreadable_keys.len(), 1, "{findings}");
    assert!(findings.unreadable_keys[0].contains(&ann.user_id), "{findings}");

    set_key(&key).await;
    create_team(&ann, &world.org, "after").await;
    suite.wait_for_log().await;
    let email = json!(ann.email);
    let found = actors(&log, "team.created").await;
    assert_eq!(found, [email.clone(), email.clone(), owner.clone(), email]);
    assert!(suite.fsck().await.unreadable_keys.is_empty());
    log.checkpoint(&suite).await;
    let bundle = log.export(api::audit::ExportFormat::Bundle).await;
    log.verify(&bundle).unwrap();

    let delete = json!({ "confirmEmail": ann.email });
    ann.call_ok("identity.v1.UserService/DeleteAccount", delete).await;
    let erased = async || {
        let found = actors(&log, "team.created").await;
        (found.iter().filter(|it| **it == json!("erased")).count() == 3).then_some(())
    };
    testkit::eventually("the erasure", erased).await;
    assert_eq!(suite.count("select count(*) from audit.person_interim_key").await, 0);
    suite.finish().await;
}
