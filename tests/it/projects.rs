//! Projects: changed by many, found by few, and deleted for good.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use testkit::{Suite, eventually};

use crate::{
    hosting::{ENVIRONMENTS, Hosting, PROJECTS, visit},
    world::{World, text},
};

fn project(name: &str) -> Value {
    json!({ "name": name, "repositoryUrl": "https://git.example.com/acme/x.git" })
}

fn names(list: &Value) -> Vec<String> {
    list["projects"].as_array().into_iter().flatten().map(|it| text(&it["name"])).collect()
}

/// PE-6, PE-7, PE-4, PE-5: settings are changed by an Admin of the project, field by field; all that is wrong
/// is said at once; a repository changes only against the project's name.
#[tokio::test(flavor = "multi_thread")]
async fn settings_are_changed_field_by_field() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let update = format!("{PROJECTS}/UpdateProject");
    let change = |more: Value| world.there(more);
    let it = world.owner.tell(
        &update,
        change(json!({
            "name": " Store ", "description": "Sells.\nA lot.", "odooVersion": "18.0",
            "updateMask": "name,description,odooVersion",
        })),
    );
    let it = it.await["project"].clone();
    assert_eq!(
        (&it["name"], &it["odooVersion"], &it["slug"]),
        (&json!("Store"), &json!("18.0"), &json!("shop"))
    );
    let wrong = change(json!({
        "name": " ", "defaultBranch": "a b", "odooVersion": "13.0",
            "updateMask": "name,defaultBranch,odooVersion",
    }));
    let refused = world.owner.ask(&update, wrong).await.unwrap_err().to_string();
    for field in ["name", "default_branch", "odoo_version"] {
        assert!(refused.contains(field), "{refused}");
    }
    let server = json!({ "serverId": chassis::id::new().to_string(), "updateMask": "serverId" });
    assert_eq!(world.owner.refused(&update, change(server)).await, "NOT_FOUND");
    let stale = json!({ "name": "x", "etag": "1", "updateMask": "name" });
    assert_eq!(world.owner.refused(&update, change(stale)).await, "CONFLICT");
    world.grant(json!({ "userId": world.developer.user_id }), "DEVELOPER").await;
    for (who, reason) in [(&world.developer, "MISSING_PERMISSION"), (&world.admin, "NOT_FOUND")] {
        let name = change(json!({ "name": "x", "updateMask": "name" }));
        assert_eq!(who.refused(&update, name).await, reason);
    }

    let move_to = format!("{PROJECTS}/ChangeRepository");
    let url = "https://git.example.com/acme/store.git";
    let named = |name: &str| change(json!({ "repositoryUrl": url, "confirmName": name }));
    assert_eq!(world.owner.refused(&move_to, named("store")).await, "CONFIRMATION_MISMATCH");
    let moved = world.owner.tell(&move_to, named("Store")).await;
    assert_eq!(moved["project"]["repositoryUrl"], url);
    suite.finish().await;
}

/// P-04: of thirty-two who write with the same etag one wins, and nobody's write is lost unseen.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_writers_with_one_etag_one_wins() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let get = world.owner.tell(&format!("{PROJECTS}/GetProject"), world.there(json!({}))).await;
    let etag = text(&get["project"]["etag"]);
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..32 {
        let update =
            json!({ "name": format!("Shop {number}"), "etag": etag, "updateMask": "name" });
        let (owner, update) = (world.owner.clone(), world.there(update));
        writers.spawn(async move {
            let answer = owner.ask(&format!("{PROJECTS}/UpdateProject"), update).await;
            answer.map(|it| text(&it["project"]["name"])).map_err(|it| it.reason)
        });
    }
    let answers = writers.join_all().await;
    let won: Vec<_> = answers.iter().filter_map(|it| it.as_ref().ok()).collect();
    assert_eq!(won.len(), 1, "{answers:?}");
    assert!(
        answers.iter().filter_map(|it| it.as_ref().err()).all(|it| it == "CONFLICT"),
        "{answers:?}"
    );
    let get = world.owner.tell(&format!("{PROJECTS}/GetProject"), world.there(json!({}))).await;
    assert_eq!(&text(&get["project"]["name"]), won[0]);
    suite.finish().await;
}

/// PE-2, PE-3, ID-45: projects are searched, ordered and paged; each sees their own; a slug is numbered; a
/// plan has so many.
#[tokio::test(flavor = "multi_thread")]
async fn projects_are_found() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    world.owner.change_plan(&world.org, api::identity::Plan::Starter).await.unwrap();
    let create = format!("{PROJECTS}/CreateProject");
    let made = world.owner.tell(&create, world.here(project("shop"))).await;
    assert_eq!(made["project"]["slug"], "shop-2");
    for name in ["banana", "Apple", "100%_real"] {
        world.developer.tell(&create, world.here(project(name))).await;
    }
    let refused = world.owner.refused(&create, world.here(project("sixth"))).await;
    assert_eq!(refused, "PROJECT_LIMIT_REACHED");
    let list = async |who: &testkit::Person, more: Value| {
        names(&who.tell(&format!("{PROJECTS}/ListProjects"), world.here(more)).await)
    };
    let all = list(&world.owner, json!({})).await;
    assert_eq!(all, ["Shop", "shop", "banana", "Apple", "100%_real"]);
    let by_name = list(&world.owner, json!({ "orderBy": "PROJECT_ORDER_NAME" })).await;
    assert_eq!(by_name, ["100%_real", "Apple", "banana", "Shop", "shop"]);
    assert_eq!(list(&world.owner, json!({ "query": "%_" })).await, ["100%_real"]);
    assert_eq!(list(&world.owner, json!({ "query": "APP" })).await, ["Apple"]);
    let own = list(&world.developer, json!({})).await;
    assert_eq!(own, ["banana", "Apple", "100%_real"], "who makes a project sees it");
    assert!(list(&world.viewer, json!({})).await.is_empty());

    // Every order is paged to its end, and nothing comes twice.
    for order in ["NAME", "UPDATE_TIME", "CREATE_TIME"] {
        let (mut token, mut seen) = (String::new(), vec![]);
        loop {
            let page = json!({ "pageSize": 2, "pageToken": token,
                "orderBy": format!("PROJECT_ORDER_{order}") });
            let page =
                world.owner.tell(&format!("{PROJECTS}/ListProjects"), world.here(page)).await;
            seen.extend(names(&page));
            token = text(&page["nextPageToken"]);
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(seen.len(), 5, "{order}: {seen:?}");
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 5, "{order}: {seen:?}");
    }
    suite.finish().await;
}

/// Every row that could be of a project.
const ROWS: &str = "
        select (select count(*) from project.project where id::text = $1)
             + (select count(*) from project.environment where project_id::text = $1)
             + (select count(*) from project.task where project_id::text = $1)
             + (select count(*) from project.task_log)
             + (select count(*) from project.attachment) + (select count(*) from project.instance)
             + (select count(*) from identity.project_grant where project_id::text = $1)
             + (select count(*) from identity.project where id::text = $1)
             + (select count(*) from invitation.webhook where project_id::text = $1)
             + (select count(*) from invitation.mail_rule where project_id::text = $1)
             + (select count(*) from identity.api_key where project_id::text = $1 and revoked_at is null)";

/// PE-9, PE-10, PE-11, PE-12, PE-14, PE-15, AU-11: a deletion is previewed, costs the exact name and a yes,
/// waits for nothing that runs, and leaves nothing but the log: no process, file, row or grant.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_project_leaves_nothing() {
    let suite = Suite::start().await;
    let it = Hosting::new(&suite).await;
    let (live, stopped) =
        (it.environment("live", "PRODUCTION").await, it.environment("old", "STAGING").await);
    let attach = it.world.there(json!({ "serviceKey": "postgresql" }));
    it.owner().tell("project.v1.AttachmentService/AttachService", attach).await;
    it.run("Deploy", &live, json!({})).await;
    let page = it.page(&live, "/").await;
    let database = page.lines().find_map(|it| it.strip_prefix("db: ")).unwrap().to_owned();
    let reach = async || <sqlx::PgConnection as sqlx::Connection>::connect(&database).await.is_ok();
    assert!(reach().await);
    it.run("Deploy", &stopped, json!({})).await;
    it.run("Stop", &stopped, json!({})).await;
    let url = text(&it.get(&live).await["url"]);
    let world = &it.world;
    let developer = json!({ "userId": world.developer.user_id });
    world.grant(developer, "DEVELOPER").await;
    let rule = world.there(json!({ "recipients": ["team@example.com"] }));
    world.owner.tell("invitation.v1.MailRuleService/CreateMailRule", rule).await;
    let key = world.there(json!({ "name": "ci", "full": true }));
    world.owner.tell("identity.v1.ApiKeyService/CreateApiKey", key).await;

    let preview = format!("{PROJECTS}/PreviewProjectDeletion");
    let preview = world.owner.tell(&preview, world.there(json!({}))).await;
    assert_eq!(preview["blockingEnvironmentIds"], json!([live]));
    assert_eq!(preview["environments"].as_array().unwrap().len(), 2);
    let delete = format!("{PROJECTS}/DeleteProject");
    let sure =
        |name: &str, confirm: bool| world.there(json!({ "confirmName": name, "confirm": confirm }));
    assert_eq!(world.owner.refused(&delete, sure("Hosted", false)).await, "INVALID_FIELD");
    assert_eq!(
        world.owner.refused(&delete, sure("Hosted", true)).await,
        "PROJECT_HAS_ACTIVE_ENVIRONMENTS"
    );
    it.run("Stop", &live, json!({})).await;
    assert_eq!(world.owner.refused(&delete, sure("hosted", true)).await, "CONFIRMATION_MISMATCH");
    assert_eq!(world.developer.refused(&delete, sure("Hosted", true)).await, "MISSING_PERMISSION");
    let deleting = world.owner.tell(&delete, sure("Hosted", true)).await;
    assert_eq!(deleting["destroyingEnvironments"], 2);
    let another = world.there(json!({ "name": "new" }));
    let refused = world.owner.refused(&format!("{ENVIRONMENTS}/CreateEnvironment"), another).await;
    assert!(["INVALID_STATE", "NOT_FOUND"].contains(&&*refused), "{refused}");

    let rows = async || {
        let rows = sqlx::query_scalar::<_, i64>(ROWS).bind(&world.project);
        rows.fetch_one(&suite.pool).await.unwrap()
    };
    eventually("nothing", async || (rows().await == 0).then_some(())).await;
    assert_eq!(visit(&url, "/").await, None);
    assert!(!reach().await, "its database is gone");
    for id in [&live, &stopped] {
        assert!(!suite.folder().join("runner").join(id).exists());
    }
    let get = format!("{PROJECTS}/GetProject");
    assert_eq!(world.owner.refused(&get, world.there(json!({}))).await, "NOT_FOUND");
    let log = world.here(json!({ "pageSize": 100 }));
    let told = async || {
        let log = world.owner.tell("audit.v1.AuditService/ListEntries", log.clone()).await;
        log.to_string().contains("tenantry.project.v1.ProjectDeleted").then_some(())
    };
    eventually("the log", told).await;
    suite.finish().await;
}
