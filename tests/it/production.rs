//! PRODUCTION under `production_deploy_min_role` (PE-45): every operation that decides what runs there, or
//! takes out what is there, by every role.

use serde_json::{Value, json};
use testkit::{Person, Suite};

use crate::{
    hosting::{ENVIRONMENTS, PROJECTS, TASKS},
    pushes::{hook, push},
    tasks::{Hand, served},
    world::{merge, text},
};

/// Roles on a project, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Viewer,
    Developer,
    Admin,
    Owner,
}

/// One operation, and the lowest role that may do it while the project asks for a Developer, or an Admin.
struct Operation {
    name: &'static str,
    method: String,
    request: Value,
    developer: Role,
    admin: Role,
}

/// A project with PRODUCTION, which is busy and has a failed task, and STAGING: every request below is
/// either denied or fails afterwards, so that none changes what the next one finds.
struct Stage {
    hand: Hand,
    production: String,
    staging: String,
    failed: String,
    attachment: String,
}

impl Stage {
    async fn new(suite: &Suite) -> Self {
        let hand = Hand::new(suite).await;
        let it = &hand.hosting;
        hand.beat().await;
        for (person, role) in [
            (&it.world.admin, "ADMIN"),
            (&it.world.developer, "DEVELOPER"),
            (&it.world.viewer, "VIEWER"),
        ] {
            it.world.grant(json!({ "userId": person.user_id }), role).await;
        }
        let draft = |name: &str, kind: &str| {
            json!({ "name": name, "kind": format!("ENVIRONMENT_KIND_{kind}"),
                "serverId": hand.server })
        };
        let production = it.environment_with(draft("production", "PRODUCTION")).await;
        let staging = it.environment_with(draft("staging", "STAGING")).await;
        for id in [&production, &staging] {
            it.queue("Deploy", id, json!({})).await;
            hand.finish(&hand.lease().await, served()).await.unwrap();
        }
        let attach = it.world.there(json!({ "serviceKey": "postgresql" }));
        let attached = it.owner().tell("project.v1.AttachmentService/AttachService", attach).await;
        for _ in 0..2 {
            hand.finish(&hand.lease().await, json!({})).await.unwrap();
        }
        let failed = it.queue("Deploy", &production, json!({})).await;
        hand.finish(&hand.lease().await, json!({ "errorMessage": "no" })).await.unwrap();
        it.queue("Deploy", &production, json!({})).await;
        hand.finish(&hand.lease().await, served()).await.unwrap();
        // From now on everything that production is asked for is refused: another task goes on.
        it.queue("Stop", &production, json!({})).await;
        let attachment = text(&attached["attachment"]["id"]);
        Self { hand, production, staging, failed, attachment }
    }

    fn of(&self, id: &str, more: Value) -> Value {
        self.hand.hosting.of(id, more)
    }

    fn there(&self, more: Value) -> Value {
        self.hand.hosting.world.there(more)
    }

    fn person(&self, role: Role) -> &Person {
        let world = &self.hand.hosting.world;
        match role {
            Role::Viewer => &world.viewer,
            Role::Developer => &world.developer,
            Role::Admin => &world.admin,
            Role::Owner => &world.owner,
        }
    }

    async fn require(&self, role: &str) {
        let role = json!({ "productionDeployMinRole": format!("DEPLOY_ROLE_{role}"),
            "updateMask": "productionDeployMinRole" });
        let method = format!("{PROJECTS}/UpdateProject");
        self.hand.hosting.owner().tell(&method, self.there(role)).await;
    }

    /// Changes what PRODUCTION gets when it next starts.
    async fn configure(&self) {
        let set = json!({ "set": [{ "name": "SECRET", "value": "x", "secret": true }] });
        let method = format!("{ENVIRONMENTS}/SetVariables");
        self.hand.hosting.owner().tell(&method, self.of(&self.production, set)).await;
    }

    /// What is asked of environments.
    fn environments(&self) -> Vec<Operation> {
        use Role::{Admin as A, Developer as D};
        let (production, staging) = (self.production.as_str(), self.staging.as_str());
        let environment = |name, id: &str, verb: &str, more, developer, admin| Operation {
            name,
            method: format!("{ENVIRONMENTS}/{verb}Environment"),
            request: self.of(id, more),
            developer,
            admin,
        };
        let create = |name, kind: &str, more: Value, admin| Operation {
            name,
            method: format!("{ENVIRONMENTS}/CreateEnvironment"),
            request: merge(
                self.there(json!({ "name": "staging",
                    "kind": format!("ENVIRONMENT_KIND_{kind}") })),
                more,
            ),
            developer: D,
            admin,
        };
        let none = || json!({});
        let new = |kind: &str| {
            json!({ "name": "production",
            "kind": format!("ENVIRONMENT_KIND_{kind}") })
        };
        let over = |id: &str| json!({ "targetEnvironmentId": id, "confirmName": "x" });
        let update =
            |key: &str, value: Value| json!({ key: value, "updateMask": key, "etag": "stale" });
        vec![
            environment("deploy production", production, "Deploy", none(), D, A),
            environment("roll production back", production, "Rollback", none(), D, A),
            environment("stop production", production, "Stop", none(), D, D),
            environment("pause production", production, "Pause", none(), D, D),
            environment("resume production", production, "Resume", none(), D, D),
            environment("look at production", production, "Sync", none(), D, D),
            environment("start staging", staging, "Start", none(), D, D),
            environment("copy production", production, "Clone", new("DEVELOPMENT"), D, A),
            environment("copy production over staging", production, "Clone", over(staging), A, A),
            environment("copy into production", staging, "Clone", new("PRODUCTION"), D, A),
            environment("copy over production", staging, "Clone", over(production), A, A),
            environment("promote", staging, "Promote", none(), A, A),
            environment("follow", production, "Update", update("autoDeploy", json!(true)), A, A),
            environment("another branch", production, "Update", update("branch", json!("x")), A, A),
            environment("destroy", production, "Destroy", json!({ "confirmName": "x" }), A, A),
            create("create production", "PRODUCTION", none(), D),
            create("create a deployed production", "PRODUCTION", json!({ "deployNow": true }), A),
            create("create a following production", "PRODUCTION", json!({ "autoDeploy": true }), A),
            create(
                "create staging",
                "STAGING",
                json!({ "autoDeploy": true, "deployNow": true }),
                D,
            ),
        ]
    }

    /// What is asked of tasks, services and the project.
    fn others(&self) -> Vec<Operation> {
        use Role::{Admin as A, Developer as D};
        let other = |name, method: &str, request, developer, admin| Operation {
            name,
            method: method.to_owned(),
            request,
            developer,
            admin,
        };
        let secret = json!({ "environmentId": self.production, "attachmentId": self.attachment });
        let url = json!({ "repositoryUrl": "https://git.example.com/a", "confirmName": "x" });
        let update =
            json!({ "defaultBranch": "x", "updateMask": "defaultBranch", "etag": "stale" });
        let task = json!({ "taskId": self.failed });
        let variables = json!({ "environmentId": self.production });
        vec![
            other("retry", &format!("{TASKS}/RetryTask"), self.there(task), D, A),
            other(
                "set variables",
                &format!("{ENVIRONMENTS}/SetVariables"),
                self.there(variables),
                A,
                A,
            ),
            other(
                "reveal the database",
                "project.v1.AttachmentService/RevealConnection",
                self.there(secret),
                A,
                A,
            ),
            other("repository", &format!("{PROJECTS}/ChangeRepository"), self.there(url), A, A),
            other("project", &format!("{PROJECTS}/UpdateProject"), self.there(update), A, A),
            other(
                "push secret",
                &format!("{PROJECTS}/RotatePushSecret"),
                self.there(json!({})),
                A,
                A,
            ),
        ]
    }

    fn starts(&self, admin: Role) -> Vec<Operation> {
        let start = |verb: &str| Operation {
            name: "start production again",
            method: format!("{ENVIRONMENTS}/{verb}Environment"),
            request: self.of(&self.production, json!({})),
            developer: Role::Developer,
            admin,
        };
        vec![start("Start"), start("Restart")]
    }

    /// Compares what happens with the table, for every role.
    async fn check(&self, setting: Role, operations: &[Operation]) {
        self.require(if setting == Role::Admin { "ADMIN" } else { "DEVELOPER" }).await;
        for it in operations {
            let least = if setting == Role::Admin { it.admin } else { it.developer };
            for role in [Role::Viewer, Role::Developer, Role::Admin, Role::Owner] {
                let answer = self.person(role).ask(&it.method, it.request.clone()).await;
                let denied = answer.err().is_some_and(|it| it.reason == "MISSING_PERMISSION");
                assert_eq!(denied, role < least, "{} by {role:?}, {setting:?} asked for", it.name);
            }
        }
    }
}

/// PE-45: all operations by all roles, under both settings. Nothing that was denied left a trace.
#[tokio::test(flavor = "multi_thread")]
async fn a_setting_decides_who_decides_what_production_runs() {
    let suite = Suite::start().await;
    let stage = Stage::new(&suite).await;
    let tasks = suite.count("select count(*) from project.task").await;
    for setting in [Role::Developer, Role::Admin] {
        stage.check(setting, &stage.starts(Role::Developer)).await;
        stage.check(setting, &stage.environments()).await;
        stage.check(setting, &stage.others()).await;
    }
    // From here on a start changes what runs.
    stage.configure().await;
    for setting in [Role::Developer, Role::Admin] {
        stage.check(setting, &stage.starts(Role::Admin)).await;
    }
    assert_eq!(suite.count("select count(*) from project.task").await, tasks);
    assert_eq!(suite.count("select count(*) from project.environment").await, 2);
    suite.finish().await;
}

/// PE-45, PE-46: a push proves no role, so it does not deploy PRODUCTION where an Admin is asked for,
/// whoever switched `auto_deploy` on, and when.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_deploys_production_only_where_developers_may() {
    let suite = Suite::start().await;
    let hand = Hand::new(&suite).await;
    let it = &hand.hosting;
    hand.beat().await;
    let draft = json!({ "name": "production", "kind": "ENVIRONMENT_KIND_PRODUCTION",
        "autoDeploy": true, "serverId": hand.server });
    let id = it.environment_with(draft).await;
    let hook = hook(it).await;
    assert_eq!(push(&suite, &hook, "main").await.1, "1 deployed, 0 waiting");
    let lease = hand.lease().await;
    assert_eq!(push(&suite, &hook, "main").await.1, "0 deployed, 1 waiting");
    let role = json!({ "productionDeployMinRole": "DEPLOY_ROLE_ADMIN",
        "updateMask": "productionDeployMinRole" });
    it.owner().tell(&format!("{PROJECTS}/UpdateProject"), it.world.there(role)).await;
    hand.finish(&lease, served()).await.unwrap();
    assert_eq!(it.state(&id).await, "RUNNING", "what waited is not deployed, either");
    let (status, answer) = push(&suite, &hook, "main").await;
    assert!(status == 200 && answer.contains("production_deploy_min_role"), "{status} {answer}");
    assert_eq!(suite.count("select count(*) from project.task").await, 1);
    suite.finish().await;
}
