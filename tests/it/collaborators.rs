//! The project's own view of who works on it.

use serde_json::{Value, json};
use testkit::Suite;

use crate::world::{World, text};

const COLLABORATORS: &str = "project.v1.CollaboratorService";

/// ID-43, ID-44: by their address a member gets a role at once and a stranger an invitation, if the caller
/// may invite; a team is added like a person; everybody is listed with every reason for their role.
#[tokio::test(flavor = "multi_thread")]
async fn people_and_teams_are_added_and_it_is_said_why_they_are_there() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let add = format!("{COLLABORATORS}/AddCollaborator");
    let with = |more: Value| world.there(more);
    let by_address = |email: &str, role: &str| {
        with(json!({ "email": email, "role": format!("PROJECT_ROLE_{role}") }))
    };
    let added = world.owner.tell(&add, by_address("DEVELOPER@example.com", "ADMIN")).await;
    assert_eq!(added["grant"]["principal"]["userId"], world.developer.user_id);
    let invited = world.owner.tell(&add, by_address("new@example.com", "ADMIN")).await;
    let invitation = &invited["invitation"];
    assert_eq!(
        (&invitation["role"], &invitation["projectAccess"][0]["role"]),
        (&json!("ORG_ROLE_DEVELOPER"), &json!("PROJECT_ROLE_ADMIN"))
    );
    // An Admin of the project adds members, and invites nobody.
    let developer = &world.developer;
    developer.tell(&add, by_address("viewer@example.com", "VIEWER")).await;
    let refused = developer.ask(&add, by_address("other@example.com", "VIEWER")).await.unwrap_err();
    assert_eq!(refused.reason, "MISSING_PERMISSION");
    assert!(refused.to_string().contains("org.invitations.manage"), "{refused}");
    assert_eq!(
        world.viewer.refused(&add, by_address("x@example.com", "VIEWER")).await,
        "MISSING_PERMISSION"
    );
    let both = with(json!({ "role": "PROJECT_ROLE_VIEWER" }));
    assert_eq!(world.owner.refused(&add, both).await, "INVALID_FIELD");

    let team = world.team("Support", &[&world.viewer]).await;
    let team_added = with(json!({ "teamId": team, "role": "PROJECT_ROLE_DEVELOPER" }));
    world.owner.tell(&add, team_added).await;
    let list = format!("{COLLABORATORS}/ListCollaborators");
    let listed = async || world.viewer.tell(&list, with(json!({}))).await;
    let all = listed().await;
    let find = |all: &Value, email: &str| {
        let all = all["collaborators"].as_array().unwrap();
        all.iter().find(|it| it["email"] == email).cloned().unwrap_or_default()
    };
    let viewer = find(&all, "viewer@example.com");
    assert_eq!(viewer["holder"]["projectRole"], "PROJECT_ROLE_DEVELOPER", "the highest counts");
    let why = viewer["holder"]["path"].to_string();
    assert!(why.contains("Support") && why.contains("VIEWER"), "{why}");
    assert_eq!(find(&all, "owner@example.com")["holder"]["orgRole"], "ORG_ROLE_OWNER");
    assert_eq!(all["grants"].as_array().unwrap().len(), 4, "the creator has one, too: {all}");

    let principal = json!({ "teamId": team });
    let remove = with(json!({ "principal": principal }));
    world.owner.tell(&format!("{COLLABORATORS}/RemoveCollaborator"), remove).await;
    let all = listed().await;
    assert_eq!(find(&all, "viewer@example.com")["holder"]["projectRole"], "PROJECT_ROLE_VIEWER");
    let principal = json!({ "userId": world.viewer.user_id });
    let more = with(json!({ "principal": principal, "role": "PROJECT_ROLE_ADMIN" }));
    let updated = world.owner.tell(&format!("{COLLABORATORS}/UpdateCollaborator"), more).await;
    assert_eq!(text(&updated["grant"]["role"]), "PROJECT_ROLE_ADMIN");
    suite.finish().await;
}
