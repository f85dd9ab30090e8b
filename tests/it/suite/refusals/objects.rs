//! Remedies of refusals by the state of an invitation or an environment.

use std::sync::Mutex;

use api::identity::Plan;
use chassis::clock::Duration;
use serde_json::{Value, json};
use testkit::Suite;

use super::{ENVIRONMENTS, INVITATIONS, PROJECTS, SERVERS, fresh, pair, remedied};
use crate::support::{
    fake_runner::FakeRunner,
    world::{World, merge, text},
};

pub(super) async fn invitations(suite: &Suite) {
    let (owner, _, org) = pair(suite, "guests").await;
    owner.change_plan(&org, Plan::Pro).await.unwrap();
    let create = format!("{INVITATIONS}/CreateInvitation");
    let accept = format!("{INVITATIONS}/AcceptInvitation");
    let owner = Mutex::new(owner);
    let by = || owner.lock().unwrap().clone();
    let request = |more: Value| merge(json!({ "orgId": org, "role": "ORG_ROLE_VIEWER" }), more);
    let invite =
        async |more: Value| by().call_ok(&create, request(more)).await["invitation"].clone();
    let token_of = async |id: &Value| {
        let link = json!({ "orgId": org, "invitationId": id });
        let link = by().call_ok(&format!("{INVITATIONS}/GetInvitationLink"), link).await;
        text(&link["link"]).rsplit('/').next().unwrap().to_owned()
    };
    let revoke = async |id: &Value| {
        let request = json!({ "orgId": org, "invitationId": id });
        by().call_ok(&format!("{INVITATIONS}/RevokeInvitation"), request).await;
    };
    let pending = invite(json!({ "email": "pending@example.com" })).await;
    remedied(
        "INVITATION_PENDING",
        "invitation.v1.InvitationService/RevokeInvitation",
        async || by().call(&create, request(json!({ "email": "pending@example.com" }))).await,
        async || revoke(&pending["id"]).await,
    )
    .await;
    let method = "invitation.v1.InvitationService/CreateInvitation";
    let carol = suite.person("carol@example.com").await;
    let revoked = invite(json!({ "email": carol.email })).await;
    let token = Mutex::new(token_of(&revoked["id"]).await);
    revoke(&revoked["id"]).await;
    let current = || json!({ "token": token.lock().unwrap().clone() });
    remedied(
        "INVITATION_REVOKED",
        method,
        async || carol.call(&accept, current()).await,
        async || {
            let new = invite(json!({ "email": carol.email })).await;
            let new = token_of(&new["id"]).await;
            *token.lock().unwrap() = new;
        },
    )
    .await;
    let (first, second) =
        (suite.person("first@example.net").await, suite.person("second@example.net").await);
    let open = invite(json!({ "email": "team@example.net", "maxUses": 2 })).await;
    let new = token_of(&open["id"]).await;
    *token.lock().unwrap() = new;
    for person in [&first, &suite.person("third@example.net").await] {
        person.call_ok(&accept, current()).await;
    }
    remedied(
        "INVITATION_EXHAUSTED",
        method,
        async || second.call(&accept, current()).await,
        async || {
            let new = invite(json!({ "email": "team@example.net", "maxUses": 2 })).await;
            let new = token_of(&new["id"]).await;
            *token.lock().unwrap() = new;
        },
    )
    .await;
    let dan = suite.person("dan@example.com").await;
    let late = invite(json!({ "email": dan.email, "expiresInDays": 2 })).await;
    suite.clock.advance(Duration::days(3));
    let (dan, signed_in) = (fresh(&dan).await, fresh(&by()).await);
    *owner.lock().unwrap() = signed_in;
    let by_id = json!({ "invitationId": late["id"] });
    remedied(
        "INVITATION_EXPIRED",
        "invitation.v1.InvitationService/ResendInvitation",
        async || dan.call(&accept, by_id.clone()).await,
        async || {
            let resend = json!({ "orgId": org, "invitationId": late["id"] });
            by().call_ok(&format!("{INVITATIONS}/ResendInvitation"), resend).await;
        },
    )
    .await;
}

pub(super) async fn environments(suite: &Suite) {
    let runner = FakeRunner::new(suite).await;
    let hosting = &runner.hosting;
    let World { owner, .. } = &hosting.world;
    let destroy = "project.v1.EnvironmentService/DestroyEnvironment";
    let destroy_named = async |id: &str, name: &str| {
        let request = json!({ "confirmName": name, "allowProduction": true, "force": true });
        owner.call_ok(destroy, hosting.request(id, request)).await;
    };
    let create = async |name: &str| {
        let fields = json!({ "name": name, "kind": "ENVIRONMENT_KIND_PRODUCTION" });
        let fields = hosting.world.project_request(fields);
        owner.call(&format!("{ENVIRONMENTS}/CreateEnvironment"), fields).await
    };
    let first = text(&create("first").await.unwrap()["environment"]["id"]);
    remedied(
        "PRODUCTION_EXISTS",
        destroy,
        async || create("second").await,
        async || {
            destroy_named(&first, "first").await;
        },
    )
    .await;
    runner.heartbeat().await;
    let id = runner.environment("main").await;
    hosting.start_task("Deploy", &id, json!({})).await;
    remedied(
        "TASK_IN_PROGRESS",
        "project.v1.TaskService/CancelTask",
        async || {
            owner
                .call(&format!("{ENVIRONMENTS}/DeployEnvironment"), hosting.request(&id, json!({})))
                .await
        },
        async || {
            let list = hosting.world.project_request(json!({ "environmentId": id }));
            let listed = owner.call_ok("project.v1.TaskService/ListTasks", list).await;
            let tasks = listed["tasks"].as_array().unwrap().iter();
            let queued = tasks.clone().find(|it| it["state"] == "TASK_STATE_QUEUED").unwrap();
            let cancel = hosting.world.project_request(json!({ "taskId": queued["id"] }));
            owner.call_ok("project.v1.TaskService/CancelTask", cancel).await;
        },
    )
    .await;
    // Without heartbeats an environment is destroyed without its runner.
    suite.clock.advance(Duration::minutes(10));
    let server = hosting.world.org_request(json!({ "serverId": runner.server }));
    remedied(
        "SERVER_IN_USE",
        destroy,
        async || owner.call(&format!("{SERVERS}/RemoveServer"), server.clone()).await,
        async || destroy_named(&id, "main").await,
    )
    .await;
    let get = hosting.world.project_request(json!({}));
    let project = owner.call_ok(&format!("{PROJECTS}/GetProject"), get).await;
    let project = project["project"]["name"].clone();
    remedied(
        "PROJECT_HAS_ACTIVE_ENVIRONMENTS",
        destroy,
        async || {
            let name = json!({ "confirmName": project, "confirm": true });
            let delete = hosting.world.project_request(name);
            owner.call(&format!("{PROJECTS}/DeleteProject"), delete).await
        },
        async || {
            let list = hosting.world.project_request(json!({}));
            let listed = owner.call_ok(&format!("{ENVIRONMENTS}/ListEnvironments"), list).await;
            for it in listed["environments"].as_array().unwrap() {
                destroy_named(&text(&it["id"]), &text(&it["name"])).await;
            }
        },
    )
    .await;
}
