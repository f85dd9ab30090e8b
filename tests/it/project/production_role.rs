//! `production_deploy_min_role` (PE-45): every operation that changes or reads the contents of PRODUCTION, by
//! every role.

use serde_json::{Value, json};
use testkit::{Person, Suite};

use crate::{
    project::push_webhook::{push, rotate_hook},
    support::{
        fake_runner::{FakeRunner, success_result},
        hosting::{ENVIRONMENTS, PROJECTS, TASKS},
        world::{merge, text},
    },
};

/// Roles on a project, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Viewer,
    Developer,
    Admin,
    Owner,
}

/// An operation, and the minimum role for it while the setting is DEVELOPER and while it is ADMIN.
struct Operation {
    name: &'static str,
    method: String,
    request: Value,
    developer: Role,
    admin: Role,
}

/// A project with STAGING and a busy PRODUCTION that has a failed task: every request below is denied or
/// fails after the permission check, so that none changes the state for the next one.
struct Fixture {
    runner: FakeRunner,
    production: String,
    staging: String,
    failed: String,
    addon: String,
}

impl Fixture {
    async fn new(suite: &Suite) -> Self {
        let runner = FakeRunner::new(suite).await;
        let hosting = &runner.hosting;
        runner.heartbeat().await;
        for (person, role) in [
            (&hosting.world.admin, "ADMIN"),
            (&hosting.world.developer, "DEVELOPER"),
            (&hosting.world.viewer, "VIEWER"),
        ] {
            hosting.world.grant(json!({ "userId": person.user_id }), role).await;
        }
        let fields = |name: &str, kind: &str| {
            json!({ "name": name, "kind": format!("ENVIRONMENT_KIND_{kind}"),
                "serverId": runner.server })
        };
        let production = hosting.create_environment(fields("production", "PRODUCTION")).await;
        let staging = hosting.create_environment(fields("staging", "STAGING")).await;
        for id in [&production, &staging] {
            hosting.start_task("Deploy", id, json!({})).await;
            runner.finish_task(&runner.lease_task().await, success_result()).await.unwrap();
        }
        let attach = hosting.world.project_request(json!({ "addonKey": "postgresql" }));
        let attached = hosting.owner().call_ok("project.v1.AddonService/AttachAddon", attach).await;
        for _ in 0..2 {
            runner.finish_task(&runner.lease_task().await, json!({})).await.unwrap();
        }
        let failed = hosting.start_task("Deploy", &production, json!({})).await;
        runner
            .finish_task(&runner.lease_task().await, json!({ "errorMessage": "no" }))
            .await
            .unwrap();
        hosting.start_task("Deploy", &production, json!({})).await;
        runner.finish_task(&runner.lease_task().await, success_result()).await.unwrap();
        // A pending task: every other task of PRODUCTION is rejected from here on.
        hosting.start_task("Stop", &production, json!({})).await;
        let addon = text(&attached["addon"]["id"]);
        Self { runner, production, staging, failed, addon }
    }

    fn environment_request(&self, id: &str, more: Value) -> Value {
        self.runner.hosting.request(id, more)
    }

    fn project_request(&self, more: Value) -> Value {
        self.runner.hosting.world.project_request(more)
    }

    fn person(&self, role: Role) -> &Person {
        let world = &self.runner.hosting.world;
        match role {
            Role::Viewer => &world.viewer,
            Role::Developer => &world.developer,
            Role::Admin => &world.admin,
            Role::Owner => &world.owner,
        }
    }

    /// Sets `production_deploy_min_role`.
    async fn set_min_role(&self, role: &str) {
        let role = json!({ "productionDeployMinRole": format!("DEPLOY_ROLE_{role}"),
            "updateMask": "productionDeployMinRole" });
        let method = format!("{PROJECTS}/UpdateProject");
        self.runner.hosting.owner().call_ok(&method, self.project_request(role)).await;
    }

    /// Changes the configuration with which PRODUCTION starts next.
    async fn configure(&self) {
        let set = json!({ "set": [{ "name": "SECRET", "value": "x", "secret": true }] });
        let method = format!("{ENVIRONMENTS}/SetVariables");
        self.runner
            .hosting
            .owner()
            .call_ok(&method, self.environment_request(&self.production, set))
            .await;
    }

    /// Operations of environments.
    fn environment_operations(&self) -> Vec<Operation> {
        use Role::{Admin as A, Developer as D};
        let production = self.production.as_str();
        let staging = self.staging.as_str();
        let environment = |name, id: &str, verb: &str, more, developer, admin| Operation {
            name,
            method: format!("{ENVIRONMENTS}/{verb}Environment"),
            request: self.environment_request(id, more),
            developer,
            admin,
        };
        let create = |name, kind: &str, more: Value, admin| Operation {
            name,
            method: format!("{ENVIRONMENTS}/CreateEnvironment"),
            request: merge(
                self.project_request(json!({ "name": "staging",
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
        let overwrite = |id: &str| json!({ "targetEnvironmentId": id, "confirmName": "x" });
        let update =
            |key: &str, value: Value| json!({ key: value, "updateMask": key, "etag": "stale" });
        vec![
            environment("deploy production", production, "Deploy", none(), D, A),
            environment("roll production back", production, "Rollback", none(), D, A),
            environment("stop production", production, "Stop", none(), D, D),
            environment("pause production", production, "Pause", none(), D, D),
            environment("resume production", production, "Resume", none(), D, D),
            environment("sync production", production, "Sync", none(), D, D),
            environment("start staging", staging, "Start", none(), D, D),
            environment("copy production", production, "Clone", new("DEVELOPMENT"), D, A),
            environment(
                "copy production over staging",
                production,
                "Clone",
                overwrite(staging),
                A,
                A,
            ),
            environment("copy into production", staging, "Clone", new("PRODUCTION"), D, A),
            environment("copy over production", staging, "Clone", overwrite(production), A, A),
            environment("promote", staging, "Promote", none(), A, A),
            environment(
                "deploy on push",
                production,
                "Update",
                update("autoDeploy", json!(true)),
                A,
                A,
            ),
            environment(
                "change the branch",
                production,
                "Update",
                update("branch", json!("x")),
                A,
                A,
            ),
            environment("destroy", production, "Destroy", json!({ "confirmName": "x" }), A, A),
            create("create production", "PRODUCTION", none(), D),
            create("create a deployed production", "PRODUCTION", json!({ "deployNow": true }), A),
            create(
                "create a production with pushes",
                "PRODUCTION",
                json!({ "autoDeploy": true }),
                A,
            ),
            create(
                "create staging",
                "STAGING",
                json!({ "autoDeploy": true, "deployNow": true }),
                D,
            ),
        ]
    }

    /// Operations of tasks, add-ons and the project.
    fn other_operations(&self) -> Vec<Operation> {
        use Role::{Admin as A, Developer as D};
        let other = |name, method: &str, request, developer, admin| Operation {
            name,
            method: method.to_owned(),
            request,
            developer,
            admin,
        };
        let secret = json!({ "environmentId": self.production, "addonId": self.addon });
        let url = json!({ "repositoryUrl": "https://git.example.com/a", "confirmName": "x" });
        let update =
            json!({ "defaultBranch": "x", "updateMask": "defaultBranch", "etag": "stale" });
        let task = json!({ "taskId": self.failed });
        let variables = json!({ "environmentId": self.production });
        vec![
            other("retry", &format!("{TASKS}/RetryTask"), self.project_request(task), D, A),
            other(
                "set variables",
                &format!("{ENVIRONMENTS}/SetVariables"),
                self.project_request(variables),
                A,
                A,
            ),
            other(
                "reveal the database",
                "project.v1.AddonService/RevealAddonConnection",
                self.project_request(secret),
                A,
                A,
            ),
            other(
                "repository",
                &format!("{PROJECTS}/ChangeRepository"),
                self.project_request(url),
                A,
                A,
            ),
            other(
                "project",
                &format!("{PROJECTS}/UpdateProject"),
                self.project_request(update),
                A,
                A,
            ),
            other(
                "push secret",
                &format!("{PROJECTS}/RotatePushSecret"),
                self.project_request(json!({})),
                A,
                A,
            ),
        ]
    }

    /// Operations that start PRODUCTION with its current configuration.
    fn start_operations(&self, admin: Role) -> Vec<Operation> {
        let start = |verb: &str| Operation {
            name: "start production again",
            method: format!("{ENVIRONMENTS}/{verb}Environment"),
            request: self.environment_request(&self.production, json!({})),
            developer: Role::Developer,
            admin,
        };
        vec![start("Start"), start("Restart")]
    }

    /// Calls the operations as every role and compares denials with the expected minimum roles.
    async fn check(&self, setting: Role, operations: &[Operation]) {
        self.set_min_role(if setting == Role::Admin { "ADMIN" } else { "DEVELOPER" }).await;
        for operation in operations {
            let minimum =
                if setting == Role::Admin { operation.admin } else { operation.developer };
            for role in [Role::Viewer, Role::Developer, Role::Admin, Role::Owner] {
                let answer =
                    self.person(role).call(&operation.method, operation.request.clone()).await;
                let denied = answer.err().is_some_and(|it| it.reason == "MISSING_PERMISSION");
                assert_eq!(
                    denied,
                    role < minimum,
                    "{} by {role:?} under {setting:?}",
                    operation.name
                );
            }
        }
    }
}

/// PE-45: all operations by all roles under both values of the setting; denied operations change nothing.
#[tokio::test(flavor = "multi_thread")]
async fn production_operations_need_the_configured_role() {
    let suite = Suite::start().await;
    let fixture = Fixture::new(&suite).await;
    let tasks = suite.count("select count(*) from project.task").await;
    for setting in [Role::Developer, Role::Admin] {
        fixture.check(setting, &fixture.start_operations(Role::Developer)).await;
        fixture.check(setting, &fixture.environment_operations()).await;
        fixture.check(setting, &fixture.other_operations()).await;
    }
    // From here on a start deploys a changed configuration.
    fixture.configure().await;
    for setting in [Role::Developer, Role::Admin] {
        fixture.check(setting, &fixture.start_operations(Role::Admin)).await;
    }
    assert_eq!(suite.count("select count(*) from project.task").await, tasks);
    assert_eq!(suite.count("select count(*) from project.environment").await, 2);
    suite.finish().await;
}

/// PE-45, PE-46: pushes have no role, so they do not deploy PRODUCTION while the setting is ADMIN, also not
/// pushes that were already waiting.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_does_not_deploy_production_reserved_for_admins() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    let hosting = &runner.hosting;
    runner.heartbeat().await;
    let draft = json!({ "name": "production", "kind": "ENVIRONMENT_KIND_PRODUCTION",
        "autoDeploy": true, "serverId": runner.server });
    let id = hosting.create_environment(draft).await;
    let hook = rotate_hook(hosting).await;
    assert_eq!(push(&suite, &hook, "main").await.1, "1 deployed, 0 waiting");
    let lease = runner.lease_task().await;
    assert_eq!(push(&suite, &hook, "main").await.1, "0 deployed, 1 waiting");
    let role = json!({ "productionDeployMinRole": "DEPLOY_ROLE_ADMIN",
        "updateMask": "productionDeployMinRole" });
    hosting
        .owner()
        .call_ok(&format!("{PROJECTS}/UpdateProject"), hosting.world.project_request(role))
        .await;
    runner.finish_task(&lease, success_result()).await.unwrap();
    assert_eq!(hosting.state(&id).await, "RUNNING", "the waiting push is not deployed");
    let (status, answer) = push(&suite, &hook, "main").await;
    assert!(status == 200 && answer.contains("production_deploy_min_role"), "{status} {answer}");
    assert_eq!(suite.count("select count(*) from project.task").await, 1);
    suite.finish().await;
}
