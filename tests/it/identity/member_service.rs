//! Members, teams and grants: the roles they give, and their removal.

use serde_json::{Value, json};
use testkit::Suite;

use crate::support::world::{World, add_member, create_project, new_member, text};

const SET: &str = "identity.v1.ProjectAccessService/SetProjectAccess";
const REMOVE: &str = "identity.v1.ProjectAccessService/RemoveProjectAccess";
const TEAMS: &str = "identity.v1.TeamService";
const MEMBERS: &str = "identity.v1.MemberService";

/// ID-26 to ID-29, ID-37, ID-41: roles on a project come from grants to people and teams; the highest counts,
/// and each ends with its grant or membership.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_comes_from_teams_and_grants_and_ends_with_them() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let developer = &world.developer;
    let role = async || {
        let mine = world.project_request(json!({}));
        let mine = developer.call_ok("identity.v1.AccessService/ListMyPermissions", mine).await;
        text(&mine["projectRole"])
    };
    let a = world.create_team("A", &[developer]).await;
    let b = world.create_team("B", &[developer]).await;
    assert_eq!(role().await, "", "a team without grants gives nothing");
    world.grant(json!({ "teamId": a }), "VIEWER").await;
    world.grant(json!({ "teamId": b }), "ADMIN").await;
    assert_eq!(role().await, "PROJECT_ROLE_ADMIN");
    let other = create_project(&world.owner, &world.org).await;
    let get = json!({ "orgId": world.org, "projectId": other });
    assert_eq!(developer.call_err("project.v1.ProjectService/GetProject", get).await, "NOT_FOUND");

    let remove = world.org_request(json!({ "teamId": b, "userId": developer.user_id }));
    world.owner.call_ok(&format!("{TEAMS}/RemoveTeamMember"), remove.clone()).await;
    assert_eq!(role().await, "PROJECT_ROLE_VIEWER");
    // Adding a member twice and removing a non-member change nothing and write no event.
    let events = async || suite.count("select count(*) from identity.outbox").await;
    let before = events().await;
    world.owner.call_ok(&format!("{TEAMS}/RemoveTeamMember"), remove).await;
    let add = world.org_request(json!({ "teamId": a, "userId": developer.user_id }));
    world.owner.call_ok(&format!("{TEAMS}/AddTeamMember"), add).await;
    assert_eq!(events().await, before);

    // A second assignment replaces the role (ID-27); the same role is no change (ID-17).
    world.grant(json!({ "teamId": a }), "DEVELOPER").await;
    world.grant(json!({ "teamId": a }), "DEVELOPER").await;
    assert_eq!(events().await, before + 1);
    assert_eq!(role().await, "PROJECT_ROLE_DEVELOPER");
    world.grant(json!({ "userId": developer.user_id }), "VIEWER").await;
    let delete = world.org_request(json!({ "teamId": a }));
    let deleted = world.owner.call_ok(&format!("{TEAMS}/DeleteTeam"), delete).await;
    assert_eq!(
        (&deleted["removedMemberCount"], &deleted["removedGrantCount"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(role().await, "PROJECT_ROLE_VIEWER", "the grant to the person stays");
    suite.finish().await;
}

/// ID-25, ID-31: teams, members and projects of different organizations cannot be combined.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_another_organization_is_found() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let eve = suite.person("eve@example.com").await;
    let evil = eve.create_organization("evil").await.unwrap();
    let create = json!({ "orgId": evil, "name": "Evil" });
    let team = eve.call_ok(&format!("{TEAMS}/CreateTeam"), create).await;
    let team = text(&team["team"]["id"]);
    let evil_project = create_project(&eve, &evil).await;
    for principal in [json!({ "teamId": team }), json!({ "userId": eve.user_id })] {
        let set = json!({ "principal": principal, "role": "PROJECT_ROLE_VIEWER" });
        assert_eq!(world.owner.call_err(SET, world.project_request(set)).await, "NOT_FOUND");
    }
    let add = json!({ "orgId": evil, "teamId": team, "userId": world.viewer.user_id });
    assert_eq!(eve.call_err(&format!("{TEAMS}/AddTeamMember"), add).await, "NOT_FOUND");
    let get = world.org_request(json!({ "teamId": team }));
    assert_eq!(world.owner.call_err(&format!("{TEAMS}/GetTeam"), get).await, "NOT_FOUND");
    let mixed = json!({ "orgId": world.org, "projectId": evil_project });
    assert_eq!(
        world.owner.call_err("project.v1.ProjectService/GetProject", mixed).await,
        "NOT_FOUND"
    );
    let invite = world.org_request(json!({
        "email": "new@example.com", "role": "ORG_ROLE_VIEWER", "teamIds": [team]
    }));
    let method = "invitation.v1.InvitationService/CreateInvitation";
    assert_eq!(world.owner.call_err(method, invite).await, "NOT_FOUND");
    suite.finish().await;
}

/// ID-8, ID-38 to ID-40, ID-42 to ID-44: management of the grants of a project, its warnings, and its audit
/// entries.
#[tokio::test(flavor = "multi_thread")]
async fn a_project_is_managed_by_its_admins_and_by_admins_of_the_organization() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let set_role = |user: &str, role: &str| {
        world.project_request(
            json!({ "principal": { "userId": user }, "role": format!("PROJECT_ROLE_{role}") }),
        )
    };
    // The Owner has created the project and so has an explicit ADMIN grant (ID-39).
    let developer = &world.developer;
    assert_eq!(developer.call_err(SET, set_role(&developer.user_id, "ADMIN")).await, "NOT_FOUND");
    world.grant(json!({ "userId": developer.user_id }), "ADMIN").await;
    // A project ADMIN who is a Developer of the organization grants any role (ID-43), but cannot invite
    // (ID-42, ID-44).
    developer.call_ok(SET, set_role(&world.viewer.user_id, "ADMIN")).await;
    let invite =
        world.org_request(json!({ "email": "new@example.com", "role": "ORG_ROLE_VIEWER" }));
    let method = "invitation.v1.InvitationService/CreateInvitation";
    assert_eq!(developer.call_err(method, invite).await, "MISSING_PERMISSION");
    assert_eq!(
        developer
            .call_err(&format!("{TEAMS}/CreateTeam"), world.org_request(json!({ "name": "x" })))
            .await,
        "MISSING_PERMISSION"
    );

    // The last explicit ADMIN grant may be removed, with a warning (ID-40): the Owner needs no grant (ID-8).
    let remove = |user: &str| world.project_request(json!({ "principal": { "userId": user } }));
    developer.call_ok(REMOVE, remove(&world.owner.user_id)).await;
    let removed = developer.call_ok(REMOVE, remove(&world.viewer.user_id)).await;
    assert_eq!(removed["warning"], Value::Null);
    let lowered = developer.call_ok(SET, set_role(&developer.user_id, "VIEWER")).await;
    assert_eq!(lowered["warning"], "ACCESS_WARNING_LAST_EXPLICIT_ADMIN");
    assert!(world.is_allowed(&world.owner, "project.delete").await);
    assert_eq!(world.owner.call_err(REMOVE, remove(&world.viewer.user_id)).await, "NOT_FOUND");

    // An Admin of the organization lists grants without a role on the project; a grant to themselves is
    // marked in the log.
    let list = "identity.v1.ProjectAccessService/ListProjectAccess";
    let grants = world.admin.call_ok(list, world.project_request(json!({}))).await;
    assert_eq!(grants["grants"].as_array().unwrap().len(), 1);
    assert!(!world.is_allowed(&world.admin, "project.view").await);
    world.admin.call_ok(SET, set_role(&world.admin.user_id, "DEVELOPER")).await;
    assert!(world.is_allowed(&world.admin, "project.view").await);
    suite.wait_for_log().await;
    let entries = json!({ "orgId": world.org, "pageSize": 100 });
    let entries = world.owner.call_ok("audit.v1.AuditService/ListEntries", entries).await;
    let is_own = |entry: &&Value| {
        let envelope = &entry["envelope"];
        envelope["event"]["selfGrant"] == true
            && envelope["actor"]["email"] == json!(world.admin.email)
    };
    assert_eq!(entries["entries"].as_array().unwrap().iter().filter(is_own).count(), 1);
    suite.finish().await;
}

/// ID-7, ID-18 to ID-23, ID-25: a member who leaves loses grants, teams and keys, and does not get them back
/// when they return; their name stays in the log; an invitation adds its teams.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_who_leaves_loses_all_access_for_good() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let team = world.create_team("Support", &[&world.admin, &world.developer]).await;
    world.grant(json!({ "userId": world.developer.user_id }), "ADMIN").await;
    let key = json!({ "name": "ci" });
    let method = "identity.v1.ApiKeyService/CreateProjectApiKey";
    let key = world.developer.call_ok(method, world.project_request(key)).await;
    let program = world.developer.with_token(&text(&key["token"]));
    program.call_ok("project.v1.ProjectService/GetProject", world.project_request(json!({}))).await;

    let leave = format!("{MEMBERS}/LeaveOrganization");
    assert_eq!(
        world.owner.call_err(&leave, world.org_request(json!({}))).await,
        "OWNER_CANNOT_LEAVE"
    );
    world.developer.call_ok(&leave, world.org_request(json!({}))).await;
    let get = "identity.v1.OrganizationService/GetOrganization";
    assert_eq!(world.developer.call_err(get, world.org_request(json!({}))).await, "NOT_FOUND");
    let get_project = world.project_request(json!({}));
    let reason = program.call_err("project.v1.ProjectService/GetProject", get_project).await;
    assert!(["INVALID_CREDENTIAL", "NOT_FOUND"].contains(&reason.as_str()), "{reason}");

    let remove = format!("{MEMBERS}/RemoveMember");
    let member = |id: &str| world.org_request(json!({ "userId": id }));
    assert_eq!(
        world.admin.call_err(&remove, member(&world.owner.user_id)).await,
        "OWNER_CANNOT_LEAVE"
    );
    assert_eq!(world.admin.call_err(&remove, member(&world.admin.user_id)).await, "SELF_REMOVAL");
    assert_eq!(
        world.viewer.call_err(&remove, member(&world.admin.user_id)).await,
        "MISSING_PERMISSION"
    );
    let removed = world.owner.call_ok(&remove, member(&world.admin.user_id)).await;
    assert_eq!(removed["removedTeamCount"], 1);
    assert_eq!(world.admin.call_err(get, world.org_request(json!({}))).await, "NOT_FOUND");

    suite.wait_for_log().await;
    let entries = json!({ "orgId": world.org, "pageSize": 100 });
    let entries = world.owner.call_ok("audit.v1.AuditService/ListEntries", entries).await;
    let left = entries["entries"]
        .as_array()
        .unwrap()
        .iter()
        .find(|it| text(&it["envelope"]["event"]["@type"]).ends_with("MemberLeft"));
    assert_eq!(left.unwrap()["envelope"]["actor"]["email"], "developer@example.com");

    add_member(&world.owner, &world.org, &world.developer, "VIEWER").await;
    let team_ids = json!([world.create_team("New", &[]).await]);
    let invite = json!({
        "email": "new@example.com", "role": "ORG_ROLE_VIEWER", "teamIds": team_ids
    });
    let new = suite.person("new@example.com").await;
    let method = "invitation.v1.InvitationService/CreateInvitation";
    world.owner.call_ok(method, world.org_request(invite)).await;
    let token = suite.mailbox.token("new@example.com", "tny_inv_").await.unwrap();
    let accept = json!({ "token": token });
    new.call_ok("invitation.v1.InvitationService/AcceptInvitation", accept).await;
    let list = world.org_request(json!({ "teamId": team_ids[0] }));
    let members = world.owner.call_ok(&format!("{TEAMS}/ListTeamMembers"), list).await;
    assert_eq!(members["members"][0]["userId"], new.user_id);
    let get_project = world.project_request(json!({}));
    assert_eq!(
        world.developer.call_err("project.v1.ProjectService/GetProject", get_project).await,
        "NOT_FOUND",
        "earlier grants are not restored"
    );
    let get_team = world.org_request(json!({ "teamId": team }));
    let old_team = world.owner.call_ok(&format!("{TEAMS}/GetTeam"), get_team).await;
    assert_eq!(old_team["team"]["memberCount"], Value::Null);
    suite.finish().await;
}

/// ID-9, ID-10, ID-45: lists are searched, paged, and limited to what the reader may see.
#[tokio::test(flavor = "multi_thread")]
async fn lists_are_searched_and_paged() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    new_member(&suite, &world.owner, &world.org, "Zoe.Miller@example.com", "VIEWER").await;
    let list = async |more: Value| {
        let method = format!("{MEMBERS}/ListMembers");
        let answer = world.viewer.call_ok(&method, world.org_request(more)).await;
        let emails: Vec<_> = answer["members"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|it| text(&it["email"]))
            .collect();
        (emails, text(&answer["nextPageToken"]))
    };
    assert_eq!(list(json!({ "query": "MILLER" })).await.0, ["Zoe.Miller@example.com"]);
    assert_eq!(list(json!({ "query": "%" })).await.0, [""; 0], "no wildcard");
    assert_eq!(list(json!({ "role": "ORG_ROLE_ADMIN" })).await.0, ["admin@example.com"]);
    let (mut all, mut token) = list(json!({ "pageSize": 2 })).await;
    while !token.is_empty() {
        let (more, next) = list(json!({ "pageSize": 2, "pageToken": token })).await;
        all.extend(more);
        token = next;
    }
    assert_eq!(all.len(), 5);
    assert_eq!(all[0], "owner@example.com");

    let projects = world
        .developer
        .call_ok("project.v1.ProjectService/ListProjects", world.org_request(json!({})))
        .await;
    assert_eq!(projects["projects"], Value::Null, "no grant, no project");
    let projects = world
        .admin
        .call_ok("project.v1.ProjectService/ListProjects", world.org_request(json!({})))
        .await;
    assert_eq!(projects["projects"].as_array().unwrap().len(), 1);

    world.create_team("Support", &[]).await;
    let teams = |query: &str| world.org_request(json!({ "query": query }));
    let found = world.viewer.call_ok(&format!("{TEAMS}/ListTeams"), teams("PORT")).await;
    assert_eq!(found["teams"][0]["name"], "Support");
    let taken = world.org_request(json!({ "name": "  support " }));
    assert_eq!(
        world.admin.call_err(&format!("{TEAMS}/CreateTeam"), taken).await,
        "TEAM_NAME_TAKEN"
    );
    let team = &found["teams"][0];
    let update = json!({
        "teamId": team["id"], "color": "#aabbcc", "updateMask": "color", "etag": team["etag"]
    });
    let updated = world
        .admin
        .call_ok(&format!("{TEAMS}/UpdateTeam"), world.org_request(update.clone()))
        .await;
    assert_eq!(
        (&updated["team"]["color"], &updated["team"]["name"]),
        (&json!("#AABBCC"), &json!("Support"))
    );
    assert_eq!(
        world.admin.call_err(&format!("{TEAMS}/UpdateTeam"), world.org_request(update)).await,
        "CONFLICT"
    );
    suite.finish().await;
}
