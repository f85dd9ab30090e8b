//! The limit of a Viewer of the organization (ID-52): at most VIEWER on every project.

use serde_json::{Value, json};
use testkit::Suite;

use crate::support::{
    hosting::PROJECTS,
    world::{World, merge},
};

const CHANGE_ROLE: &str = "identity.v1.MemberService/ChangeMemberRole";
const EXPLAIN: &str = "identity.v1.AccessService/Explain";
const WHO_CAN: &str = "identity.v1.AccessService/ListWhoCan";
const SIMULATE: &str = "identity.v1.AccessService/SimulateAccess";

async fn set_org_role(world: &World, role: &str) {
    let change = world.org_request(json!({
        "userId": world.viewer.user_id,
        "role": format!("ORG_ROLE_{role}"),
    }));
    world.owner.call_ok(CHANGE_ROLE, change).await;
}

/// ID-52: a Viewer with ADMIN on a project, by a grant and by a team, changes nothing there; as a Developer
/// the same grants are effective at once, and a change back to Viewer ends that at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_with_the_role_admin_on_a_project_changes_nothing() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let viewer = json!({ "userId": world.viewer.user_id });
    let granted = world.grant(viewer, "ADMIN").await;
    assert_eq!(granted["warning"], "ACCESS_WARNING_VIEWER_LIMIT");
    let team = world.create_team("operations", &[&world.viewer]).await;
    world.grant(json!({ "teamId": team }), "ADMIN").await;

    let update = world.project_request(json!({ "name": "Changed", "updateMask": "name" }));
    let method = format!("{PROJECTS}/UpdateProject");
    let reason = world.viewer.call_err(&method, update.clone()).await;
    assert_eq!(reason, "MISSING_PERMISSION");
    let read = world.project_request(json!({}));
    world.viewer.call_ok(&format!("{PROJECTS}/GetProject"), read).await;

    set_org_role(&world, "DEVELOPER").await;
    world.viewer.call_ok(&method, update.clone()).await;
    set_org_role(&world, "VIEWER").await;
    let reason = world.viewer.call_err(&method, update).await;
    assert_eq!(reason, "MISSING_PERMISSION");
    suite.finish().await;
}

/// ID-52: explanations, lists of holders and simulations include the limit.
#[tokio::test(flavor = "multi_thread")]
async fn explanations_and_simulations_include_the_limit_of_a_viewer() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    world.grant(json!({ "userId": world.viewer.user_id }), "ADMIN").await;
    let deploy = json!({ "permission": "project.environments.deploy" });

    let mut query = world.project_request(deploy.clone());
    query["userId"] = json!(world.viewer.user_id);
    let explained = world.owner.call_ok(EXPLAIN, query.clone()).await;
    assert_eq!(
        explained["explanation"],
        "viewer@example.com lacks project.environments.deploy: viewer@example.com is VIEWER of the \
         organization, which limits their role on every project to VIEWER, but the role DEVELOPER on the \
         project is required."
    );
    assert_eq!(explained["path"][0]["kind"], "STEP_KIND_VIEWER_LIMIT", "{explained}");
    let remedies = explained["remedies"].as_array().unwrap();
    assert_eq!(remedies.len(), 1, "{explained}");
    assert_eq!(remedies[0]["method"], format!("tenantry.{CHANGE_ROLE}"));
    let remedy: &Value = &remedies[0];
    assert_eq!(remedy["role"], "DEVELOPER");

    let holders = world.owner.call_ok(WHO_CAN, world.project_request(deploy)).await;
    assert!(!holders.to_string().contains(&world.viewer.user_id), "{holders}");

    let change = json!({ "changeRole": {
        "userId": world.viewer.user_id, "role": "ORG_ROLE_DEVELOPER",
    } });
    let simulated = world.org_request(json!({ "changes": [change] }));
    let differences = world.owner.call_ok(SIMULATE, simulated).await;
    let gained =
        differences["differences"].as_array().unwrap().iter().any(|it| {
            it["projectId"] == world.project && it["gained"].to_string().contains("deploy")
        });
    assert!(gained, "{differences}");

    set_org_role(&world, "DEVELOPER").await;
    let explained = world.owner.call_ok(EXPLAIN, query).await;
    assert_eq!(explained["allowed"], true, "{explained}");
    suite.finish().await;
}

/// ID-52: the invitation of a Viewer with a higher role on a project has a warning, alone, in a batch and
/// when it is read again; other offers have none.
#[tokio::test(flavor = "multi_thread")]
async fn the_invitation_of_a_viewer_with_a_higher_role_has_a_warning() {
    const INVITATIONS: &str = "invitation.v1.InvitationService";
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    world.owner.change_plan(&world.org, api::identity::Plan::Pro).await.unwrap();
    let limit = json!(["ACCESS_WARNING_VIEWER_LIMIT"]);
    for (n, (role, project_role, warnings)) in [
        ("VIEWER", "ADMIN", &limit),
        ("VIEWER", "DEVELOPER", &limit),
        ("VIEWER", "VIEWER", &Value::Null),
        ("DEVELOPER", "ADMIN", &Value::Null),
    ]
    .into_iter()
    .enumerate()
    {
        let access = json!({
            "projectId": world.project, "role": format!("PROJECT_ROLE_{project_role}"),
        });
        let offer = |addresses: Value| {
            let role = json!({ "role": format!("ORG_ROLE_{role}"), "projectAccess": [access] });
            world.org_request(merge(addresses, role))
        };
        let create = offer(json!({ "email": format!("a{n}@example.com") }));
        let created = world.owner.call_ok(&format!("{INVITATIONS}/CreateInvitation"), create).await;
        assert_eq!(&created["warnings"], warnings, "{role} with {project_role}");
        let get = world.org_request(json!({ "invitationId": created["invitation"]["id"] }));
        let shown = world.owner.call_ok(&format!("{INVITATIONS}/GetInvitation"), get).await;
        assert_eq!(&shown["warnings"], warnings, "{role} with {project_role}");
        let batch = offer(json!({ "emails": [format!("b{n}@example.com")] }));
        let created =
            world.owner.call_ok(&format!("{INVITATIONS}/BatchCreateInvitations"), batch).await;
        assert_eq!(&created["warnings"], warnings, "{role} with {project_role}");
    }
    // A member who is a Viewer, added as a collaborator.
    let add = world.project_request(json!({
        "email": world.viewer.email, "role": "PROJECT_ROLE_DEVELOPER",
    }));
    let added = world.owner.call_ok("project.v1.CollaboratorService/AddCollaborator", add).await;
    assert_eq!(added["warnings"], limit);
    let update = world.project_request(json!({
        "principal": { "userId": world.viewer.user_id }, "role": "PROJECT_ROLE_ADMIN",
    }));
    let update =
        world.owner.call_ok("project.v1.CollaboratorService/UpdateCollaborator", update).await;
    assert_eq!(update["warnings"], limit);
    suite.finish().await;
}
