//! Projects: settings, concurrent updates, lists and deletion.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use testkit::{Suite, eventually};

use crate::support::{
    hosting::{ENVIRONMENTS, Hosting, PROJECTS, visit},
    world::{World, merge, text},
};

fn project(name: &str) -> Value {
    json!({ "name": name, "repositoryUrl": "https://git.example.com/acme/x.git" })
}

fn names(list: &Value) -> Vec<String> {
    list["projects"].as_array().into_iter().flatten().map(|it| text(&it["name"])).collect()
}

/// PE-4, PE-5, PE-6, PE-7: an Admin of the project changes settings by field mask; all violations are
/// reported at once; a change of the repository needs the typed name of the project.
#[tokio::test(flavor = "multi_thread")]
async fn settings_are_changed_by_field_mask() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let update = format!("{PROJECTS}/UpdateProject");
    let change = |more: Value| world.project_request(more);
    let updated = world.owner.call_ok(
        &update,
        change(json!({
            "name": " Store ", "description": "Sells.\nA lot.", "odooVersion": "18.0",
            "updateMask": "name,description,odooVersion",
        })),
    );
    let project = updated.await["project"].clone();
    assert_eq!(
        (&project["name"], &project["odooVersion"], &project["slug"]),
        (&json!("Store"), &json!("18.0"), &json!("shop"))
    );
    let wrong = change(json!({
        "name": "", "defaultBranch": "a b", "odooVersion": "13.0",
            "updateMask": "name,defaultBranch,odooVersion",
    }));
    let refusal = world.owner.call(&update, wrong).await.unwrap_err().to_string();
    for field in ["name", "default_branch", "odoo_version"] {
        assert!(refusal.contains(field), "{refusal}");
    }
    let server = json!({ "serverId": chassis::id::new().to_string(), "updateMask": "serverId" });
    assert_eq!(world.owner.call_err(&update, change(server)).await, "NOT_FOUND");
    let stale = json!({ "name": "x", "etag": "1", "updateMask": "name" });
    assert_eq!(world.owner.call_err(&update, change(stale)).await, "CONFLICT");
    world.grant(json!({ "userId": world.developer.user_id }), "DEVELOPER").await;
    for (person, reason) in [(&world.developer, "MISSING_PERMISSION"), (&world.admin, "NOT_FOUND")]
    {
        let name = change(json!({ "name": "x", "updateMask": "name" }));
        assert_eq!(person.call_err(&update, name).await, reason);
    }

    let change_repository = format!("{PROJECTS}/ChangeRepository");
    let url = "https://git.example.com/acme/store.git";
    let confirmed = |name: &str| change(json!({ "repositoryUrl": url, "confirmName": name }));
    assert_eq!(
        world.owner.call_err(&change_repository, confirmed("store")).await,
        "CONFIRMATION_MISMATCH"
    );
    let changed = world.owner.call_ok(&change_repository, confirmed("Store")).await;
    assert_eq!(changed["project"]["repositoryUrl"], url);
    suite.finish().await;
}

/// P-04: of 32 concurrent updates with the same etag one succeeds and the others get CONFLICT.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_updates_with_an_etag_succeeds() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let get = world
        .owner
        .call_ok(&format!("{PROJECTS}/GetProject"), world.project_request(json!({})))
        .await;
    let etag = text(&get["project"]["etag"]);
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..32 {
        let update =
            json!({ "name": format!("Shop {number}"), "etag": etag, "updateMask": "name" });
        let owner = world.owner.clone();
        let update = world.project_request(update);
        writers.spawn(async move {
            let answer = owner.call(&format!("{PROJECTS}/UpdateProject"), update).await;
            answer.map(|it| text(&it["project"]["name"])).map_err(|it| it.reason)
        });
    }
    let answers = writers.join_all().await;
    let written: Vec<_> = answers.iter().filter_map(|it| it.as_ref().ok()).collect();
    assert_eq!(written.len(), 1, "{answers:?}");
    assert!(
        answers.iter().filter_map(|it| it.as_ref().err()).all(|it| it == "CONFLICT"),
        "{answers:?}"
    );
    let get = world
        .owner
        .call_ok(&format!("{PROJECTS}/GetProject"), world.project_request(json!({})))
        .await;
    assert_eq!(&text(&get["project"]["name"]), written[0]);
    suite.finish().await;
}

/// PE-2, PE-3, ID-45: lists of projects are searched, ordered, paged and limited to visible projects; slugs
/// are numbered; the plan limits the number of projects.
#[tokio::test(flavor = "multi_thread")]
async fn projects_are_searched_ordered_and_paged() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    world.owner.change_plan(&world.org, api::identity::Plan::Starter).await.unwrap();
    let create = format!("{PROJECTS}/CreateProject");
    let created = world.owner.call_ok(&create, world.org_request(project("shop"))).await;
    assert_eq!(created["project"]["slug"], "shop-2");
    for name in ["banana", "Apple", "100%_real"] {
        world.developer.call_ok(&create, world.org_request(project(name))).await;
    }
    let reason = world.owner.call_err(&create, world.org_request(project("sixth"))).await;
    assert_eq!(reason, "PROJECT_LIMIT_REACHED");
    let list = async |person: &testkit::Person, more: Value| {
        names(&person.call_ok(&format!("{PROJECTS}/ListProjects"), world.org_request(more)).await)
    };
    let all = list(&world.owner, json!({})).await;
    assert_eq!(all, ["Shop", "shop", "banana", "Apple", "100%_real"]);
    let by_name = list(&world.owner, json!({ "orderBy": "PROJECT_ORDER_NAME" })).await;
    assert_eq!(by_name, ["100%_real", "Apple", "banana", "Shop", "shop"]);
    assert_eq!(list(&world.owner, json!({ "query": "%_" })).await, ["100%_real"]);
    assert_eq!(list(&world.owner, json!({ "query": "APP" })).await, ["Apple"]);
    let own = list(&world.developer, json!({})).await;
    assert_eq!(own, ["banana", "Apple", "100%_real"], "creators see their projects");
    assert!(list(&world.viewer, json!({})).await.is_empty());

    // Each order is paged without gaps and duplicates.
    for order in ["NAME", "UPDATE_TIME", "CREATE_TIME"] {
        let mut token = String::new();
        let mut listed = vec![];
        loop {
            let page = json!({ "pageSize": 2, "pageToken": token,
                "orderBy": format!("PROJECT_ORDER_{order}") });
            let page = world
                .owner
                .call_ok(&format!("{PROJECTS}/ListProjects"), world.org_request(page))
                .await;
            listed.extend(names(&page));
            token = text(&page["nextPageToken"]);
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(listed.len(), 5, "{order}: {listed:?}");
        assert_eq!(listed.iter().collect::<BTreeSet<_>>().len(), 5, "{order}: {listed:?}");
    }
    suite.finish().await;
}

/// Creates projects concurrently from these fields; returns the id or the reason of the refusal of each.
async fn create_concurrently(world: &World, drafts: Vec<Value>) -> Vec<Result<String, String>> {
    let mut calls = tokio::task::JoinSet::new();
    for draft in drafts {
        let owner = world.owner.clone();
        let create = merge(world.org_request(project("Store")), draft);
        calls.spawn(async move {
            let created = owner.call(&format!("{PROJECTS}/CreateProject"), create).await;
            created.map(|it| text(&it["project"]["id"])).map_err(|it| it.reason)
        });
    }
    calls.join_all().await
}

/// PE-1, PE-2, PE-3: of concurrent creations with one slug, in any case, one succeeds; with one request id
/// all get the same project; without a slug each gets another one. Identity keeps no registration of the
/// others.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_creations_leave_one_registration_per_project() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let plan = world.org_request(json!({ "plan": "PLAN_PRO" }));
    world.owner.call_ok("identity.v1.BillingService/ChangePlan", plan).await;

    let slugs = ["store", "STORE", "Store", "store"];
    let same_slug = slugs.iter().cycle().take(16).map(|slug| json!({ "slug": slug })).collect();
    let outcomes = create_concurrently(&world, same_slug).await;
    assert_eq!(outcomes.iter().filter(|it| it.is_ok()).count(), 1, "{outcomes:?}");
    let refusals = outcomes.iter().filter_map(|it| it.as_ref().err());
    assert!(refusals.into_iter().all(|it| it == "PROJECT_SLUG_TAKEN"), "{outcomes:?}");

    let request_id = chassis::id::new().to_string();
    let repeated = (0..8).map(|_| json!({ "requestId": request_id })).collect();
    let ids: BTreeSet<_> = create_concurrently(&world, repeated).await.into_iter().collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert!(ids.first().unwrap().is_ok(), "{ids:?}");

    let created = create_concurrently(&world, vec![json!({}); 8]).await;
    assert!(created.iter().all(Result::is_ok), "{created:?}");
    // The project of the scene, and those of the three rounds.
    assert_eq!(suite.count("select count(*) from project.project").await, 1 + 1 + 1 + 8);
    let difference = "select count(*) from (
        (select id from identity.project except select id from project.project) union all
        (select id from project.project except select id from identity.project)) as difference";
    eventually("the same projects in identity", async || {
        (suite.count(difference).await == 0).then_some(())
    })
    .await;
    suite.finish().await;
}

/// Number of rows of all tables that may refer to a project.
const ROWS: &str = "
        select (select count(*) from project.project where id::text = $1)
             + (select count(*) from project.environment where project_id::text = $1)
             + (select count(*) from project.task where project_id::text = $1)
             + (select count(*) from project.task_log)
             + (select count(*) from project.addon) + (select count(*) from project.addon_instance)
             + (select count(*) from identity.project_grant where project_id::text = $1)
             + (select count(*) from identity.project where id::text = $1)
             + (select count(*) from invitation.webhook where project_id::text = $1)
             + (select count(*) from invitation.mail_rule where project_id::text = $1)
             + (select count(*) from identity.api_key where project_id::text = $1 and revoked_at is null)";

/// PE-9, PE-10, PE-11, PE-12, PE-14, PE-15, AU-11: a deletion has a preview, needs the exact name and a
/// confirmation, is rejected while environments run, and leaves no process, file, row or grant, only the
/// audit log.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_project_leaves_nothing() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let live = hosting.environment("live", "PRODUCTION").await;
    let stopped = hosting.environment("old", "STAGING").await;
    let attach = hosting.world.project_request(json!({ "addonKey": "postgresql" }));
    hosting.owner().call_ok("project.v1.AddonService/AttachAddon", attach).await;
    hosting.run_task("Deploy", &live, json!({})).await;
    let page = hosting.page(&live, "/").await;
    let database = page.lines().find_map(|it| it.strip_prefix("db: ")).unwrap().to_owned();
    let is_reachable =
        async || <sqlx::PgConnection as sqlx::Connection>::connect(&database).await.is_ok();
    assert!(is_reachable().await);
    hosting.run_task("Deploy", &stopped, json!({})).await;
    hosting.run_task("Stop", &stopped, json!({})).await;
    let url = text(&hosting.get(&live).await["url"]);
    let world = &hosting.world;
    let developer = json!({ "userId": world.developer.user_id });
    world.grant(developer, "DEVELOPER").await;
    let rule = world.project_request(json!({ "recipients": ["team@example.com"] }));
    world.owner.call_ok("notification.v1.MailRuleService/CreateMailRule", rule).await;
    let key = world.project_request(json!({ "name": "ci", "full": true }));
    world.owner.call_ok("identity.v1.ApiKeyService/CreateApiKey", key).await;

    let preview = format!("{PROJECTS}/PreviewProjectDeletion");
    let preview = world.owner.call_ok(&preview, world.project_request(json!({}))).await;
    assert_eq!(preview["blockingEnvironmentIds"], json!([live]));
    assert_eq!(preview["environments"].as_array().unwrap().len(), 2);
    let delete = format!("{PROJECTS}/DeleteProject");
    let confirmed = |name: &str, confirm: bool| {
        world.project_request(json!({ "confirmName": name, "confirm": confirm }))
    };
    assert_eq!(world.owner.call_err(&delete, confirmed("Hosted", false)).await, "INVALID_FIELD");
    assert_eq!(
        world.owner.call_err(&delete, confirmed("Hosted", true)).await,
        "PROJECT_HAS_ACTIVE_ENVIRONMENTS"
    );
    hosting.run_task("Stop", &live, json!({})).await;
    assert_eq!(
        world.owner.call_err(&delete, confirmed("hosted", true)).await,
        "CONFIRMATION_MISMATCH"
    );
    assert_eq!(
        world.developer.call_err(&delete, confirmed("Hosted", true)).await,
        "MISSING_PERMISSION"
    );
    let deleting = world.owner.call_ok(&delete, confirmed("Hosted", true)).await;
    assert_eq!(deleting["destroyingEnvironments"], 2);
    let another = world.project_request(json!({ "name": "new" }));
    let reason = world.owner.call_err(&format!("{ENVIRONMENTS}/CreateEnvironment"), another).await;
    assert!(["INVALID_STATE", "NOT_FOUND"].contains(&&*reason), "{reason}");

    let rows = async || {
        let rows = sqlx::query_scalar::<_, i64>(ROWS).bind(&world.project);
        rows.fetch_one(&suite.pool).await.unwrap()
    };
    eventually("the deletion of all rows", async || (rows().await == 0).then_some(())).await;
    assert_eq!(visit(&url, "/").await, None);
    assert!(!is_reachable().await, "its database is dropped");
    for id in [&live, &stopped] {
        assert!(!suite.data_dir().join("runner").join(id).exists());
    }
    let get = format!("{PROJECTS}/GetProject");
    assert_eq!(world.owner.call_err(&get, world.project_request(json!({}))).await, "NOT_FOUND");
    let list = world.org_request(json!({ "pageSize": 100 }));
    let is_logged = async || {
        let entries = world.owner.call_ok("audit.v1.AuditService/ListEntries", list.clone()).await;
        entries.to_string().contains("tenantry.project.v1.ProjectDeleted").then_some(())
    };
    eventually("the audit entry", is_logged).await;
    suite.finish().await;
}
