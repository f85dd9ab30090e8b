//! Remedies of limits: room is made, or the plan is changed.

use std::sync::Mutex;

use api::identity::{Plan, Subscription};
use serde_json::{Value, json};
use tenantry::client::CallError;
use testkit::{Person, Suite};

use super::{
    ENVIRONMENTS, INVITATIONS, KEYS, ORGANIZATIONS, PROJECTS, SERVERS, fresh, pair, remedied,
};
use crate::support::{
    exports::{CREATE_EXPORT_SINK, export_sink},
    world::{merge, text},
};

/// Method that raises all limits.
const CHANGE_PLAN: &str = "identity.v1.BillingService/ChangePlan";

/// An organization at the limits of its plan.
struct Organization {
    owner: Person,
    admin: Person,
    id: String,
}

impl Organization {
    fn request(&self, more: Value) -> Value {
        merge(json!({ "orgId": self.id }), more)
    }

    async fn free(&self) {
        self.owner.change_plan(&self.id, Plan::Free).await.unwrap();
    }

    async fn pro(&self) {
        self.owner.change_plan(&self.id, Plan::Pro).await.unwrap();
    }

    async fn create_project(&self, name: &str) -> Result<Value, CallError> {
        let url = "https://git.example.com/a.git";
        let create = self.request(json!({ "name": name, "repositoryUrl": url }));
        self.owner.call(&format!("{PROJECTS}/CreateProject"), create).await
    }

    async fn members(&self) {
        let usage = format!("{ORGANIZATIONS}/GetUsage");
        let usage = self.owner.call_ok(&usage, self.request(json!({}))).await;
        let rows = usage["usage"].as_array().unwrap();
        let members = rows.iter().find(|it| it["key"] == "members").unwrap();
        let change_plan = format!("tenantry.{CHANGE_PLAN}");
        let remedies = ["tenantry.identity.v1.MemberService/RemoveMember", &change_plan];
        assert_eq!(members["remedies"], json!(remedies), "{usage}");
        let invite = async |email: &str| {
            let invite = self.request(json!({ "email": email, "role": "ORG_ROLE_VIEWER" }));
            self.owner.call(&format!("{INVITATIONS}/CreateInvitation"), invite).await
        };
        let reason = "MEMBER_LIMIT_REACHED";
        let first = async || invite("first@example.com").await;
        remedied(reason, CHANGE_PLAN, first, async || self.pro().await).await;
        self.free().await;
        let remove = "identity.v1.MemberService/RemoveMember";
        let second = async || invite("second@example.com").await;
        remedied(reason, remove, second, async || {
            let request = self.request(json!({ "userId": self.admin.user_id }));
            self.owner.call_ok(remove, request).await;
        })
        .await;
    }

    /// Returns the id of one of the projects.
    async fn projects(&self) -> Value {
        let first = self.create_project("First").await.unwrap()["project"].clone();
        let project = self.create_project("Second").await.unwrap()["project"].clone();
        let reason = "PROJECT_LIMIT_REACHED";
        let delete = "project.v1.ProjectService/DeleteProject";
        let third = async || self.create_project("Third").await;
        remedied(reason, delete, third, async || {
            let confirm = json!({ "projectId": first["id"], "confirmName": "First" });
            let confirm = merge(confirm, json!({ "confirm": true }));
            self.owner.call_ok(delete, self.request(confirm)).await;
        })
        .await;
        let fourth = async || self.create_project("Fourth").await;
        remedied(reason, CHANGE_PLAN, fourth, async || self.pro().await).await;
        project["id"].clone()
    }

    async fn environments(&self, project_id: &Value) {
        let environment = async |verb: &str, more: Value| {
            let request = merge(self.request(json!({ "projectId": project_id })), more);
            self.owner.call(&format!("{ENVIRONMENTS}/{verb}"), request).await
        };
        let create =
            async |name: &str| environment("CreateEnvironment", json!({ "name": name })).await;
        for name in ["one", "two", "three"] {
            create(name).await.unwrap();
        }
        let reason = "ENVIRONMENT_LIMIT_REACHED";
        let destroy = "project.v1.EnvironmentService/DestroyEnvironment";
        remedied(
            reason,
            destroy,
            async || create("four").await,
            async || {
                let listed = environment("ListEnvironments", json!({})).await.unwrap();
                let last = &listed["environments"][0];
                let request = json!({ "environmentId": last["id"], "confirmName": last["name"] });
                environment("DestroyEnvironment", request).await.unwrap();
            },
        )
        .await;
        let five = async || create("five").await;
        remedied(reason, CHANGE_PLAN, five, async || self.pro().await).await;
    }

    async fn servers(&self) {
        let connect = async |name: &str| {
            let connect = json!({ "name": name, "address": format!("{name}.example.com") });
            self.owner.call(&format!("{SERVERS}/ConnectServer"), self.request(connect)).await
        };
        let server = connect("one").await.unwrap()["server"]["id"].clone();
        let reason = "SERVER_LIMIT_REACHED";
        let remove = "project.v1.ServerService/RemoveServer";
        remedied(
            reason,
            remove,
            async || connect("two").await,
            async || {
                self.owner.call_ok(remove, self.request(json!({ "serverId": server }))).await;
            },
        )
        .await;
        let three = async || connect("three").await;
        remedied(reason, CHANGE_PLAN, three, async || self.pro().await).await;
    }
}

/// Each limit is reached twice: one object is removed, then the plan is changed.
pub(super) async fn limits(suite: &Suite) {
    let (owner, admin, id) = pair(suite, "full").await;
    let organization = Organization { owner, admin, id };
    organization.free().await;
    organization.members().await;
    let project_id = organization.projects().await;
    organization.free().await;
    organization.environments(&project_id).await;
    organization.free().await;
    organization.servers().await;
    organization.free().await;
    let create_key = async || {
        let request = organization.request(json!({ "name": "ci" }));
        organization.owner.call(&format!("{KEYS}/CreateApiKey"), request).await
    };
    let pro = async || organization.pro().await;
    remedied("PLAN_FEATURE_REQUIRED", CHANGE_PLAN, create_key, pro).await;
    suite.set_subscription(&organization.id, Subscription::Blocked).await;
    remedied(
        "SUBSCRIPTION_BLOCKED",
        "identity.v1.OrganizationService/SetSubscription",
        async || organization.create_project("Fifth").await,
        async || suite.set_subscription(&organization.id, Subscription::Active).await,
    )
    .await;
}

pub(super) async fn keys(suite: &Suite) {
    let (owner, _, org) = pair(suite, "keys").await;
    owner.change_plan(&org, Plan::Pro).await.unwrap();
    let url = "https://git.example.com/a.git";
    let create = json!({ "orgId": org, "name": "Shop", "repositoryUrl": url });
    let project = owner.call_ok(&format!("{PROJECTS}/CreateProject"), create).await;
    let project = project["project"]["id"].clone();
    let create_key = async |more: Value| {
        let request = merge(json!({ "orgId": org, "name": "key" }), more);
        let created = owner.call_ok(&format!("{KEYS}/CreateApiKey"), request).await;
        owner.with_token(&text(&created["token"]))
    };
    let credential = Mutex::new(create_key(json!({})).await);
    let current = || credential.lock().unwrap().clone();
    let method = "identity.v1.ApiKeyService/CreateApiKey";
    let full = async || {
        let key = create_key(json!({ "full": true })).await;
        *credential.lock().unwrap() = key;
    };
    let environment = json!({ "orgId": org, "projectId": project, "name": "main" });
    remedied(
        "READ_ONLY_KEY",
        method,
        async || {
            current().call(&format!("{ENVIRONMENTS}/CreateEnvironment"), environment.clone()).await
        },
        full,
    )
    .await;
    let bound = create_key(json!({ "full": true, "projectId": project })).await;
    *credential.lock().unwrap() = bound;
    let other = json!({ "orgId": org, "name": "Other", "repositoryUrl": url });
    remedied(
        "ORG_SCOPE_REQUIRED",
        method,
        async || current().call(&format!("{PROJECTS}/CreateProject"), other.clone()).await,
        full,
    )
    .await;
    remedied(
        "SESSION_REQUIRED",
        "identity.v1.SessionService/Login",
        async || current().call("identity.v1.UserService/GetMe", json!({})).await,
        async || {
            let session = fresh(&owner).await;
            *credential.lock().unwrap() = session;
        },
    )
    .await;
}

pub(super) async fn hooks(suite: &Suite) {
    let (owner, _, org) = pair(suite, "hooks").await;
    let request =
        |more: Value| merge(json!({ "orgId": org, "eventTypes": ["deployment.failed"] }), more);
    for (service, object, field, rest) in [
        ("WebhookService", "Webhook", "webhook", json!({ "url": "https://9.9.9.9/hook" })),
        ("MailRuleService", "MailRule", "mailRule", json!({ "recipients": [owner.email] })),
    ] {
        let create = format!("notification.v1.{service}/Create{object}");
        let delete = format!("notification.v1.{service}/Delete{object}");
        let mut first = Value::Null;
        // The limit is the same for all organizations.
        for _ in 0..1_000 {
            match owner.call(&create, request(rest.clone())).await {
                Ok(created) => first = created[field]["id"].clone(),
                Err(refused) => {
                    assert_eq!(refused.reason, "HOOK_LIMIT_REACHED", "{refused}");
                    break;
                }
            }
        }
        remedied(
            "HOOK_LIMIT_REACHED",
            &delete,
            async || owner.call(&create, request(rest.clone())).await,
            async || {
                owner.call_ok(&delete, json!({ "orgId": org, format!("{field}Id"): first })).await;
            },
        )
        .await;
    }
}

/// An organization with the maximum number of sinks of the audit log deletes one.
pub(super) async fn export_sinks(suite: &Suite) {
    let (owner, _, org) = pair(suite, "sinks").await;
    let sink = export_sink(&owner, &org, "Sink").await;
    let create = async || owner.call(CREATE_EXPORT_SINK, sink.clone()).await;
    let first = create().await.unwrap()["exportSink"]["id"].clone();
    for _ in 1..20 {
        create().await.unwrap();
    }
    let delete = "audit.v1.AuditExportService/DeleteExportSink";
    remedied("EXPORT_SINK_LIMIT_REACHED", delete, create, async || {
        owner.call_ok(delete, json!({ "orgId": org, "exportSinkId": first })).await;
    })
    .await;
}
