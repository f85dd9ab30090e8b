//! The same answers on databases of every locale: search, order and uniqueness do not depend on it.

use serde_json::{Value, json};
use testkit::{Options, Suite};

use crate::support::{
    audit_client::AuditClient,
    world::{World, merge, text},
};

const PROJECTS: &str = "project.v1.ProjectService";

/// Locales of databases: that of the private database, one of the C library, and one of ICU in which the
/// lower case of `I` is `ı`.
const LOCALES: [&str; 3] =
    ["locale 'C'", "locale 'C.UTF-8'", "locale 'C.UTF-8' locale_provider icu icu_locale 'tr-TR'"];

/// I-30: the database of an operator has the locale of its machine.
#[tokio::test(flavor = "multi_thread")]
async fn search_order_and_uniqueness_are_the_same_in_every_locale() {
    let mut first: Option<Value> = None;
    for locale in LOCALES {
        let suite = Suite::start_with(Options { locale, ..Options::default() }).await;
        let answers = answers(&suite).await;
        suite.finish().await;
        match &first {
            None => first = Some(answers),
            Some(first) => assert_eq!(&answers, first, "{locale}"),
        }
    }
    let first = first.unwrap();
    let order = ["apfel", "INFO", "Shop", "Straße", "Zebra", "Äpfel", "Über uns"];
    assert_eq!(first["order"], json!(order), "by key");
    for cases in ["found", "entries"] {
        for (query, count) in first[cases].as_object().unwrap() {
            assert_ne!(count, 0, "{cases} {query}");
        }
    }
    for (case, reason) in first["taken"].as_object().unwrap() {
        let is_conflict = ["TEAM_NAME_TAKEN", "PROJECT_SLUG_TAKEN", "SERVER_EXISTS"]
            .contains(&reason.as_str().unwrap());
        assert!(is_conflict, "{case}: {reason}");
    }
    let names = ["AB", "AC", "A_B", "a"];
    assert_eq!(first["variables"], json!(names), "in the order of code points");
}

/// Names, and numbers of results, of the same calls.
async fn answers(suite: &Suite) -> Value {
    let world = World::new(suite).await;
    let owner = &world.owner;
    let rename = json!({ "displayName": "Ayşe IŞIL", "updateMask": "displayName" });
    owner.call_ok("identity.v1.UserService/UpdateProfile", rename).await;
    let rename = json!({ "displayName": "Özlem IŞIK", "updateMask": "displayName" });
    world.viewer.call_ok("identity.v1.UserService/UpdateProfile", rename).await;
    for name in ["Zebra", "Äpfel", "apfel", "Über uns", "Straße", "INFO"] {
        let slug = if name == "INFO" { "INFO" } else { "" };
        let repository = "https://git.example.com/a.git";
        let create = json!({ "name": name, "slug": slug, "repositoryUrl": repository });
        owner.call_ok(&format!("{PROJECTS}/CreateProject"), world.org_request(create)).await;
    }
    world.invite("INVITED@example.com", json!({})).await;
    world.create_team("CAFÉ INFO", &[]).await;
    suite.wait_for_log().await;
    let mut answers = json!({});
    let searches = [
        ("identity.v1.MemberService/ListMembers", "query", "members", "ÖZLEM"),
        ("identity.v1.MemberService/ListMembers", "query", "members", "o\u{308}zlem iş"),
        ("identity.v1.TeamService/ListTeams", "query", "teams", "café info"),
        ("project.v1.ProjectService/ListProjects", "query", "projects", "über"),
        ("project.v1.ProjectService/ListProjects", "query", "projects", "STRASSE"),
        ("project.v1.ProjectService/ListProjects", "query", "projects", "info"),
        ("invitation.v1.InvitationService/ListInvitations", "search", "invitations", "invited"),
    ];
    for (method, field, rows, query) in searches {
        let found = owner.call_ok(method, world.org_request(json!({ field: query }))).await;
        let count = found[rows].as_array().map_or(0, Vec::len);
        answers["found"][format!("{method} {query}")] = json!(count);
    }
    let log = AuditClient::new(suite, owner, &world.org).await;
    for query in
        ["ÜBER UNS", "a\u{308}PFEL", "STRASSE", "café info", "info", "ayşe işil", "VIEWER@"]
    {
        answers["entries"][query] = json!(log.entries(json!({ "text": query })).await.len());
    }
    let by_name = world.org_request(json!({ "orderBy": "PROJECT_ORDER_NAME" }));
    let listed = owner.call_ok(&format!("{PROJECTS}/ListProjects"), by_name).await;
    let projects = listed["projects"].as_array().unwrap();
    answers["order"] = projects.iter().map(|it| it["name"].clone()).collect();
    let server = json!({ "name": "one", "address": "IDE.example.com" });
    owner.call_ok("project.v1.ServerService/ConnectServer", world.org_request(server)).await;
    let repository = json!({ "repositoryUrl": "https://git.example.com/a.git" });
    let repetitions = [
        ("identity.v1.TeamService/CreateTeam", json!({ "name": "cafe\u{301} info" })),
        (
            "project.v1.ProjectService/CreateProject",
            merge(repository, json!({ "name": "Other", "slug": "info" })),
        ),
        (
            "project.v1.ServerService/ConnectServer",
            json!({ "name": "two", "address": "ide.example.com" }),
        ),
    ];
    for (method, request) in repetitions {
        answers["taken"][method] = json!(owner.call_err(method, world.org_request(request)).await);
    }
    answers["variables"] = variables(&world).await;
    answers
}

/// Names of the variables of an environment, as they are listed.
async fn variables(world: &World) -> Value {
    let create = json!({ "name": "one", "kind": "ENVIRONMENT_KIND_STAGING" });
    let method = "project.v1.EnvironmentService/CreateEnvironment";
    let created = world.owner.call_ok(method, world.project_request(create)).await;
    let id = text(&created["environment"]["id"]);
    let set = ["a", "A_B", "AC", "AB"].map(|name| json!({ "name": name, "value": "1" }));
    let set = world.project_request(json!({ "environmentId": id, "set": set }));
    let method = "project.v1.EnvironmentService/SetVariables";
    world.owner.call_ok(method, set).await;
    let list = world.project_request(json!({ "environmentId": id }));
    let method = "project.v1.EnvironmentService/ListVariables";
    let listed = world.owner.call_ok(method, list).await;
    let names = listed["variables"].as_array().unwrap().iter();
    names.map(|it| it["name"].clone()).collect()
}
