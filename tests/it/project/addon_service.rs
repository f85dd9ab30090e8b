//! Add-ons: a PostgreSQL database for each environment.

use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use testkit::{Suite, eventually};

use crate::support::{
    hosting::{ENVIRONMENTS, Hosting},
    world::text,
};

const ADDONS: &str = "project.v1.AddonService";

/// URL of the database in the variables of the deployed program.
async fn database_url(hosting: &Hosting, id: &str) -> String {
    let page = hosting.page(id, "/").await;
    let line = page.lines().find_map(|it| it.strip_prefix("db: ")).unwrap_or_default();
    line.to_owned()
}

/// The first column of a statement.
async fn sql(url: &str, statement: &'static str) -> Result<Option<String>, sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query_scalar::<_, Option<String>>(statement)
        .fetch_optional(&mut connection)
        .await
        .map(Option::flatten)
}

/// The add-on as its project sees it.
async fn addon(hosting: &Hosting, id: &Value) -> Value {
    let get = hosting.world.project_request(json!({ "addonId": id }));
    hosting.owner().call_ok(&format!("{ADDONS}/GetAddon"), get).await["addon"].clone()
}

/// A database is created with the first deployment, reachable by its program only, revealed with a
/// permission, copied with its environment, reconfigured, and deleted with its data.
#[tokio::test(flavor = "multi_thread")]
async fn each_environment_has_a_database_of_its_own() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let one = hosting.environment("one", "STAGING").await;
    let two = hosting.environment("two", "DEVELOPMENT").await;
    let attach = format!("{ADDONS}/AttachAddon");
    let postgresql = |config: Value| {
        hosting.world.project_request(json!({ "addonKey": "postgresql", "config": config }))
    };
    let wrong = postgresql(json!([{ "key": "connections_max", "value": "101" }]));
    assert_eq!(hosting.owner().call_err(&attach, wrong).await, "INVALID_FIELD");
    assert_eq!(hosting.world.developer.call_err(&attach, postgresql(json!([]))).await, "NOT_FOUND");
    let attached = hosting.owner().call_ok(&attach, postgresql(json!([]))).await;
    let id = attached["addon"]["id"].clone();
    assert_eq!(hosting.owner().call_err(&attach, postgresql(json!([]))).await, "ADDON_ATTACHED");
    let state = async || text(&addon(&hosting, &id).await["state"]);
    assert_eq!(state().await, "ADDON_STATE_READY", "no environment is deployed");

    hosting.run_task("Deploy", &one, json!({})).await;
    hosting.run_task("Deploy", &two, json!({})).await;
    let first = database_url(&hosting, &one).await;
    let second = database_url(&hosting, &two).await;
    assert!(first.starts_with("postgres://env_") && first != second, "{first} {second}");
    sql(&first, "create table fruit as select 'apples' as name").await.unwrap();
    assert_eq!(sql(&first, "select name from fruit").await.unwrap().unwrap(), "apples");
    crate::support::sealed_values::require_sealed_values(
        &suite,
        &["project.addon_instance.sealed"],
    )
    .await;
    let lower = "select lower('É') || lower('ß') || (upper('ä') = 'Ä')::text";
    assert_eq!(sql(&first, lower).await.unwrap().unwrap(), "éßtrue");
    let wrong_role =
        format!("{}/{}", second.rsplit_once('/').unwrap().0, first.rsplit_once('/').unwrap().1);
    assert!(sql(&wrong_role, "select '1'").await.is_err(), "a role reaches its own database only");

    let reveal = async || {
        let reveal = hosting.request(&one, json!({ "addonId": id }));
        hosting.owner().call(&format!("{ADDONS}/RevealAddonConnection"), reveal).await.ok()
    };
    let revealed = eventually("the URL", reveal).await;
    assert_eq!(
        (&revealed["variable"], &revealed["value"]),
        (&json!("DATABASE_URL"), &json!(first))
    );
    let reveals = "select count(*) from project.outbox
                   where type = 'tenantry.project.v1.AddonConnectionRevealed'";
    assert_eq!(suite.count(reveals).await, 1);

    let clone = hosting.request(&one, json!({ "name": "copy" }));
    let copy = hosting.owner().call_ok(&format!("{ENVIRONMENTS}/CloneEnvironment"), clone).await;
    let task = hosting.finished_task(&text(&copy["task"]["id"])).await;
    assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{task}");
    let copy_url = database_url(&hosting, &text(&copy["environment"]["id"])).await;
    assert!(copy_url != first);
    assert_eq!(sql(&copy_url, "select name from fruit").await.unwrap().unwrap(), "apples");
    sql(&copy_url, "insert into fruit values ('pears')").await.unwrap();
    assert_eq!(sql(&first, "select count(*)::text from fruit").await.unwrap().unwrap(), "1");

    let more = json!([{ "key": "connections_max", "value": "3" }]);
    let update = hosting.world.project_request(json!({ "addonId": id, "config": more }));
    hosting.owner().call_ok(&format!("{ADDONS}/UpdateAddon"), update).await;
    let ready = async || (state().await == "ADDON_STATE_READY").then_some(());
    eventually("the change", ready).await;
    let limit = "select rolconnlimit::text from pg_roles where rolname = current_user";
    assert_eq!(sql(&first, limit).await.unwrap().unwrap(), "3");
    assert_eq!(hosting.state(&one).await, "RUNNING", "the program was not restarted");

    let destroy = json!({ "confirmName": "two" });
    hosting.run_task("Destroy", &two, destroy).await;
    assert!(sql(&second, "select '1'").await.is_err());
    let detach =
        |key: &str| hosting.world.project_request(json!({ "addonId": id, "confirmKey": key }));
    let method = format!("{ADDONS}/DetachAddon");
    assert_eq!(
        hosting.owner().call_err(&method, detach("PostgreSQL")).await,
        "CONFIRMATION_MISMATCH"
    );
    hosting.owner().call_ok(&method, detach("postgresql")).await;
    let list = hosting.world.project_request(json!({}));
    let none = async || {
        let all = hosting.owner().call_ok(&format!("{ADDONS}/ListAddons"), list.clone()).await;
        all["addons"].as_array().is_none_or(Vec::is_empty).then_some(())
    };
    eventually("the end of the add-on", none).await;
    for url in [&first, &copy_url] {
        assert!(sql(url, "select '1'").await.is_err(), "the database is dropped");
    }
    suite.finish().await;
}
