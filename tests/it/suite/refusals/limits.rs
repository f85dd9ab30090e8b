//! Remedies of limits: room is made, or the plan is changed.

use std::sync::Mutex;

use api::identity::{Plan, Subscription};
use serde_json::{Value, json};
use testkit::Suite;

use super::{
    ENVIRONMENTS, INVITATIONS, KEYS, ORGANIZATIONS, PROJECTS, SERVERS, fresh, pair, remedied,
};
use crate::support::world::{merge, text};

/// Each limit is reached twice: one object is removed, then the plan is changed.
pub(super) async fn limits(suite: &Suite) {
    let (owner, admin, org) = pair(suite, "full").await;
    let org_request = |more: Value| merge(json!({ "orgId": org }), more);
    let change_plan = "identity.v1.OrganizationService/ChangePlan";
    let free = async || owner.change_plan(&org, Plan::Free).await.unwrap();
    let pro = async || {
        owner.change_plan(&org, Plan::Pro).await.unwrap();
    };
    free().await;
    // The remedies of a full organization are in its usage, too.
    let usage = owner.call_ok(&format!("{ORGANIZATIONS}/GetUsage"), org_request(json!({}))).await;
    let rows = usage["usage"].as_array().unwrap();
    let members = rows.iter().find(|it| it["key"] == "members").unwrap();
    let remedies =
        ["tenantry.identity.v1.MemberService/RemoveMember", &format!("tenantry.{change_plan}")];
    assert_eq!(members["remedies"], json!(remedies), "{usage}");
    let invite = async |email: &str| {
        let invite = org_request(json!({ "email": email, "role": "ORG_ROLE_VIEWER" }));
        owner.call(&format!("{INVITATIONS}/CreateInvitation"), invite).await
    };
    remedied("MEMBER_LIMIT_REACHED", change_plan, async || invite("first@example.com").await, pro)
        .await;
    free().await;
    remedied(
        "MEMBER_LIMIT_REACHED",
        "identity.v1.MemberService/RemoveMember",
        async || invite("second@example.com").await,
        async || {
            let remove = org_request(json!({ "userId": admin.user_id }));
            owner.call_ok("identity.v1.MemberService/RemoveMember", remove).await;
        },
    )
    .await;
    let create_project = async |name: &str| {
        let url = "https://git.example.com/a.git";
        let create = org_request(json!({ "name": name, "repositoryUrl": url }));
        owner.call(&format!("{PROJECTS}/CreateProject"), create).await
    };
    let first = create_project("First").await.unwrap()["project"].clone();
    let project = create_project("Second").await.unwrap()["project"].clone();
    remedied(
        "PROJECT_LIMIT_REACHED",
        "project.v1.ProjectService/DeleteProject",
        async || create_project("Third").await,
        async || {
            let confirm =
                json!({ "projectId": first["id"], "confirmName": "First", "confirm": true });
            owner.call_ok(&format!("{PROJECTS}/DeleteProject"), org_request(confirm)).await;
        },
    )
    .await;
    remedied("PROJECT_LIMIT_REACHED", change_plan, async || create_project("Fourth").await, pro)
        .await;
    free().await;
    let environment = async |verb: &str, more: Value| {
        let request = merge(org_request(json!({ "projectId": project["id"] })), more);
        owner.call(&format!("{ENVIRONMENTS}/{verb}Environment"), request).await
    };
    for name in ["one", "two", "three"] {
        environment("Create", json!({ "name": name })).await.unwrap();
    }
    let destroy_one = async || {
        let list = merge(org_request(json!({ "projectId": project["id"] })), json!({}));
        let listed = owner.call_ok(&format!("{ENVIRONMENTS}/ListEnvironments"), list).await;
        let last = &listed["environments"][0];
        let destroy = json!({ "environmentId": last["id"], "confirmName": last["name"] });
        environment("Destroy", destroy).await.unwrap();
    };
    let limit = "ENVIRONMENT_LIMIT_REACHED";
    let destroy = "project.v1.EnvironmentService/DestroyEnvironment";
    remedied(
        limit,
        destroy,
        async || environment("Create", json!({ "name": "four" })).await,
        destroy_one,
    )
    .await;
    remedied(
        limit,
        change_plan,
        async || environment("Create", json!({ "name": "five" })).await,
        pro,
    )
    .await;
    free().await;
    let connect = async |name: &str| {
        let connect = json!({ "name": name, "address": format!("{name}.example.com") });
        owner.call(&format!("{SERVERS}/ConnectServer"), org_request(connect)).await
    };
    let server = connect("one").await.unwrap()["server"]["id"].clone();
    let limit = "SERVER_LIMIT_REACHED";
    let remove = "project.v1.ServerService/RemoveServer";
    remedied(
        limit,
        remove,
        async || connect("two").await,
        async || {
            let request = org_request(json!({ "serverId": server }));
            owner.call_ok(&format!("{SERVERS}/RemoveServer"), request).await;
        },
    )
    .await;
    remedied(limit, change_plan, async || connect("three").await, pro).await;
    free().await;
    let create_key = async || {
        owner.call(&format!("{KEYS}/CreateApiKey"), org_request(json!({ "name": "ci" }))).await
    };
    remedied("PLAN_FEATURE_REQUIRED", change_plan, create_key, pro).await;
    suite.set_subscription(&org, Subscription::Blocked).await;
    remedied(
        "SUBSCRIPTION_BLOCKED",
        "identity.v1.OrganizationService/SetSubscription",
        async || create_project("Fifth").await,
        async || suite.set_subscription(&org, Subscription::Active).await,
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
