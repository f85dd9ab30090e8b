//! Collaborators of a project: members, invited people and teams.

use serde_json::{Value, json};
use testkit::Suite;

use crate::support::world::{World, text};

const COLLABORATORS: &str = "project.v1.CollaboratorService";

/// ID-43, ID-44: a member is added by their address at once, other people are invited if the caller may
/// invite; teams are added like people; the list shows each path of each role.
#[tokio::test(flavor = "multi_thread")]
async fn people_and_teams_are_added_and_listed_with_their_paths() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let add = format!("{COLLABORATORS}/AddCollaborator");
    let request = |more: Value| world.project_request(more);
    let by_address = |email: &str, role: &str| {
        request(json!({ "email": email, "role": format!("PROJECT_ROLE_{role}") }))
    };
    let added = world.owner.call_ok(&add, by_address("DEVELOPER@example.com", "ADMIN")).await;
    assert_eq!(added["grant"]["principal"]["userId"], world.developer.user_id);
    let invited = world.owner.call_ok(&add, by_address("new@example.com", "ADMIN")).await;
    let invitation = &invited["invitation"];
    assert_eq!(
        (&invitation["role"], &invitation["projectAccess"][0]["role"]),
        (&json!("ORG_ROLE_DEVELOPER"), &json!("PROJECT_ROLE_ADMIN"))
    );
    // An Admin of the project who is a Developer of the organization adds members and cannot invite.
    let developer = &world.developer;
    developer.call_ok(&add, by_address("viewer@example.com", "VIEWER")).await;
    let refused =
        developer.call(&add, by_address("other@example.com", "VIEWER")).await.unwrap_err();
    assert_eq!(refused.reason, "MISSING_PERMISSION");
    assert!(refused.to_string().contains("org.invitations.manage"), "{refused}");
    assert_eq!(
        world.viewer.call_err(&add, by_address("x@example.com", "VIEWER")).await,
        "MISSING_PERMISSION"
    );
    let no_principal = request(json!({ "role": "PROJECT_ROLE_VIEWER" }));
    assert_eq!(world.owner.call_err(&add, no_principal).await, "INVALID_FIELD");

    let team = world.create_team("Support", &[&world.viewer]).await;
    let team_added = request(json!({ "teamId": team, "role": "PROJECT_ROLE_DEVELOPER" }));
    world.owner.call_ok(&add, team_added).await;
    let list = format!("{COLLABORATORS}/ListCollaborators");
    let listed = async || world.viewer.call_ok(&list, request(json!({}))).await;
    let all = listed().await;
    let find = |all: &Value, email: &str| {
        let all = all["collaborators"].as_array().unwrap();
        all.iter().find(|it| it["email"] == email).cloned().unwrap_or_default()
    };
    let viewer = find(&all, "viewer@example.com");
    // The team has DEVELOPER, which counts for a Viewer of the organization as VIEWER (ID-52).
    assert_eq!(viewer["holder"]["projectRole"], "PROJECT_ROLE_VIEWER");
    let path = viewer["holder"]["path"].to_string();
    assert!(path.contains("Support") && path.contains("STEP_KIND_VIEWER_LIMIT"), "{path}");
    assert_eq!(find(&all, "owner@example.com")["holder"]["orgRole"], "ORG_ROLE_OWNER");
    assert_eq!(all["grants"].as_array().unwrap().len(), 4, "the creator has a grant too: {all}");

    let principal = json!({ "teamId": team });
    let remove = request(json!({ "principal": principal }));
    world.owner.call_ok(&format!("{COLLABORATORS}/RemoveCollaborator"), remove).await;
    let all = listed().await;
    let viewer = find(&all, "viewer@example.com");
    assert!(!viewer["holder"]["path"].to_string().contains("Support"), "{viewer}");
    let principal = json!({ "userId": world.viewer.user_id });
    let update = request(json!({ "principal": principal, "role": "PROJECT_ROLE_ADMIN" }));
    let updated = world.owner.call_ok(&format!("{COLLABORATORS}/UpdateCollaborator"), update).await;
    assert_eq!(text(&updated["grant"]["role"]), "PROJECT_ROLE_ADMIN");
    suite.finish().await;
}
