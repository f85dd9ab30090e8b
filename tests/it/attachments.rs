//! Extra services: a database that is really there, for each environment its own.

use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use testkit::{Suite, eventually};

use crate::{
    hosting::{ENVIRONMENTS, Hosting},
    world::text,
};

const ATTACHMENTS: &str = "project.v1.AttachmentService";

/// The address that a program sees.
async fn seen(it: &Hosting, id: &str) -> String {
    let page = it.page(id, "/").await;
    let line = page.lines().find_map(|it| it.strip_prefix("db: ")).unwrap_or_default();
    line.to_owned()
}

async fn sql(url: &str, statement: &'static str) -> Result<Option<String>, sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query_scalar::<_, Option<String>>(statement)
        .fetch_optional(&mut connection)
        .await
        .map(Option::flatten)
}

async fn attached(it: &Hosting, id: &Value) -> Value {
    let get = it.world.there(json!({ "attachmentId": id }));
    it.owner().tell(&format!("{ATTACHMENTS}/GetAttachment"), get).await["attachment"].clone()
}

/// 2.8: a database is attached, given with the first deployment, found by the program, shown to who may
/// look, copied with its environment, set otherwise, and taken away with its data; nobody reaches
/// another's.
#[tokio::test(flavor = "multi_thread")]
async fn each_environment_has_a_database_of_its_own() {
    let suite = Suite::start().await;
    let it = Hosting::new(&suite).await;
    let (one, two) =
        (it.environment("one", "STAGING").await, it.environment("two", "DEVELOPMENT").await);
    let attach = format!("{ATTACHMENTS}/AttachService");
    let postgresql =
        |config: Value| it.world.there(json!({ "serviceKey": "postgresql", "config": config }));
    let wrong = postgresql(json!([{ "key": "connections_max", "value": "101" }]));
    assert_eq!(it.owner().refused(&attach, wrong).await, "INVALID_FIELD");
    assert_eq!(it.world.developer.refused(&attach, postgresql(json!([]))).await, "NOT_FOUND");
    let made = it.owner().tell(&attach, postgresql(json!([]))).await;
    let id = made["attachment"]["id"].clone();
    assert_eq!(it.owner().refused(&attach, postgresql(json!([]))).await, "SERVICE_ATTACHED");
    let state = async || text(&attached(&it, &id).await["state"]);
    assert_eq!(state().await, "ATTACHMENT_STATE_READY", "no environment was deployed");

    it.run("Deploy", &one, json!({})).await;
    it.run("Deploy", &two, json!({})).await;
    let (first, second) = (seen(&it, &one).await, seen(&it, &two).await);
    assert!(first.starts_with("postgres://env_") && first != second, "{first} {second}");
    sql(&first, "create table fruit as select 'apples' as name").await.unwrap();
    assert_eq!(sql(&first, "select name from fruit").await.unwrap().unwrap(), "apples");
    let theirs =
        format!("{}/{}", second.rsplit_once('/').unwrap().0, first.rsplit_once('/').unwrap().1);
    assert!(sql(&theirs, "select '1'").await.is_err(), "a role reaches its own database only");

    let eventually_known = async || {
        let reveal = it.of(&one, json!({ "attachmentId": id }));
        it.owner().ask(&format!("{ATTACHMENTS}/RevealConnection"), reveal).await.ok()
    };
    let revealed = eventually("the address", eventually_known).await;
    assert_eq!(
        (&revealed["variable"], &revealed["value"]),
        (&json!("DATABASE_URL"), &json!(first))
    );
    let told =
        "select count(*) from project.outbox where type = 'tenantry.project.v1.ConnectionRevealed'";
    assert_eq!(suite.count(told).await, 1);

    let clone = it.of(&one, json!({ "name": "copy" }));
    let copy = it.owner().tell(&format!("{ENVIRONMENTS}/CloneEnvironment"), clone).await;
    let task = it.ended(&text(&copy["task"]["id"])).await;
    assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{task}");
    let copied = seen(&it, &text(&copy["environment"]["id"])).await;
    assert!(copied != first);
    assert_eq!(sql(&copied, "select name from fruit").await.unwrap().unwrap(), "apples");
    sql(&copied, "insert into fruit values ('pears')").await.unwrap();
    assert_eq!(sql(&first, "select count(*)::text from fruit").await.unwrap().unwrap(), "1");

    let more = json!([{ "key": "connections_max", "value": "3" }]);
    let update = it.world.there(json!({ "attachmentId": id, "config": more }));
    it.owner().tell(&format!("{ATTACHMENTS}/UpdateAttachment"), update).await;
    let ready = async || (state().await == "ATTACHMENT_STATE_READY").then_some(());
    eventually("the change", ready).await;
    let limit = "select rolconnlimit::text from pg_roles where rolname = current_user";
    assert_eq!(sql(&first, limit).await.unwrap().unwrap(), "3");
    assert_eq!(it.state(&one).await, "RUNNING", "what runs was left alone");

    let gone = json!({ "confirmName": "two" });
    it.run("Destroy", &two, gone).await;
    assert!(sql(&second, "select '1'").await.is_err());
    let detach = |key: &str| it.world.there(json!({ "attachmentId": id, "confirmKey": key }));
    let method = format!("{ATTACHMENTS}/DetachService");
    assert_eq!(it.owner().refused(&method, detach("PostgreSQL")).await, "CONFIRMATION_MISMATCH");
    it.owner().tell(&method, detach("postgresql")).await;
    let list = it.world.there(json!({}));
    let none = async || {
        let all = it.owner().tell(&format!("{ATTACHMENTS}/ListAttachments"), list.clone()).await;
        all["attachments"].as_array().is_none_or(Vec::is_empty).then_some(())
    };
    eventually("the end of the service", none).await;
    for url in [&first, &copied] {
        assert!(sql(url, "select '1'").await.is_err(), "its data is gone");
    }
    suite.finish().await;
}
