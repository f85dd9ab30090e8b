//! Members, teams and grants: what each gives, and what goes when it goes.

use serde_json::{Value, json};
use testkit::Suite;

use crate::{
    authorization::create_project,
    world::{World, admit, join, text},
};

const SET: &str = "identity.v1.ProjectAccessService/SetProjectAccess";
const REMOVE: &str = "identity.v1.ProjectAccessService/RemoveProjectAccess";
const TEAMS: &str = "identity.v1.TeamService";
const MEMBERS: &str = "identity.v1.MemberService";

/// ID-26 to ID-29, ID-37, ID-41 and 1.8: roles on a project come from teams and from grants, the highest
/// wins, and each goes with what gave it.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_comes_from_teams_and_grants_and_goes_with_them() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let who = &world.viewer;
    let role = async || {
        let mine = world.there(json!({}));
        let mine = who.tell("identity.v1.AccessService/ListMyPermissions", mine).await;
        text(&mine["projectRole"])
    };
    let (a, b) = (world.team("A", &[who]).await, world.team("B", &[who]).await);
    assert_eq!(role().await, "", "a team without grants gives nothing");
    world.grant(json!({ "teamId": a }), "VIEWER").await;
    world.grant(json!({ "teamId": b }), "ADMIN").await;
    assert_eq!(role().await, "PROJECT_ROLE_ADMIN");
    let other = create_project(&world.owner, &world.org).await;
    let there = json!({ "orgId": world.org, "projectId": other });
    assert_eq!(who.refused("project.v1.ProjectService/GetProject", there).await, "NOT_FOUND");

    let out = world.here(json!({ "teamId": b, "userId": who.user_id }));
    world.owner.tell(&format!("{TEAMS}/RemoveTeamMember"), out.clone()).await;
    assert_eq!(role().await, "PROJECT_ROLE_VIEWER");
    // Adding twice, and taking out who is not in, change nothing, and the log tells neither.
    let changes = async || suite.count("select count(*) from identity.outbox").await;
    let before = changes().await;
    world.owner.tell(&format!("{TEAMS}/RemoveTeamMember"), out).await;
    let again = world.here(json!({ "teamId": a, "userId": who.user_id }));
    world.owner.tell(&format!("{TEAMS}/AddTeamMember"), again).await;
    assert_eq!(changes().await, before);

    // Assigning again replaces the role (ID-27); the same role again is no change (ID-17).
    world.grant(json!({ "teamId": a }), "DEVELOPER").await;
    world.grant(json!({ "teamId": a }), "DEVELOPER").await;
    assert_eq!(changes().await, before + 1);
    assert_eq!(role().await, "PROJECT_ROLE_DEVELOPER");
    world.grant(json!({ "userId": who.user_id }), "VIEWER").await;
    let delete = world.here(json!({ "teamId": a }));
    let deleted = world.owner.tell(&format!("{TEAMS}/DeleteTeam"), delete).await;
    assert_eq!(
        (&deleted["removedMemberCount"], &deleted["removedGrantCount"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(role().await, "PROJECT_ROLE_VIEWER", "what is held by other ways stays");
    suite.finish().await;
}

/// ID-25, ID-31, and 9.15: a team, a member and a project of different organizations never meet.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_another_organization_is_found() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let eve = suite.person("eve@example.com").await;
    let evil = eve.create_organization("evil").await.unwrap();
    let create = json!({ "orgId": evil, "name": "Evil" });
    let team = eve.tell(&format!("{TEAMS}/CreateTeam"), create).await;
    let team = text(&team["team"]["id"]);
    let evil_project = create_project(&eve, &evil).await;
    for principal in [json!({ "teamId": team }), json!({ "userId": eve.user_id })] {
        let set = json!({ "principal": principal, "role": "PROJECT_ROLE_VIEWER" });
        assert_eq!(world.owner.refused(SET, world.there(set)).await, "NOT_FOUND");
    }
    let add = json!({ "orgId": evil, "teamId": team, "userId": world.viewer.user_id });
    assert_eq!(eve.refused(&format!("{TEAMS}/AddTeamMember"), add).await, "NOT_FOUND");
    let get = world.here(json!({ "teamId": team }));
    assert_eq!(world.owner.refused(&format!("{TEAMS}/GetTeam"), get).await, "NOT_FOUND");
    let mixed = json!({ "orgId": world.org, "projectId": evil_project });
    assert_eq!(
        world.owner.refused("project.v1.ProjectService/GetProject", mixed).await,
        "NOT_FOUND"
    );
    let invite = world.here(json!({
        "email": "new@example.com", "role": "ORG_ROLE_VIEWER", "teamIds": [team]
    }));
    let method = "invitation.v1.InvitationService/CreateInvitation";
    assert_eq!(world.owner.refused(method, invite).await, "NOT_FOUND");
    suite.finish().await;
}

/// ID-8, ID-38 to ID-40, ID-42 to ID-44: who manages the grants of a project, what they are told, and
/// what the log tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_project_is_managed_by_its_admins_and_the_organizations() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let by_user = |user: &str, role: &str| {
        world.there(
            json!({ "principal": { "userId": user }, "role": format!("PROJECT_ROLE_{role}") }),
        )
    };
    // The Owner made the project, so theirs is the explicit ADMIN (ID-39).
    let developer = &world.developer;
    assert_eq!(developer.refused(SET, by_user(&developer.user_id, "ADMIN")).await, "NOT_FOUND");
    world.grant(json!({ "userId": developer.user_id }), "ADMIN").await;
    // A project ADMIN who is only a Developer in the organization gives any role (ID-43), and invites nobody
    // (ID-42, ID-44).
    developer.tell(SET, by_user(&world.viewer.user_id, "ADMIN")).await;
    let invite = world.here(json!({ "email": "new@example.com", "role": "ORG_ROLE_VIEWER" }));
    let method = "invitation.v1.InvitationService/CreateInvitation";
    assert_eq!(developer.refused(method, invite).await, "MISSING_PERMISSION");
    assert_eq!(
        developer.refused(&format!("{TEAMS}/CreateTeam"), world.here(json!({ "name": "x" }))).await,
        "MISSING_PERMISSION"
    );

    // The Owner needs no grant (ID-8), so the last explicit ADMIN may go; who takes it away is told (ID-40).
    let remove = |user: &str| world.there(json!({ "principal": { "userId": user } }));
    developer.tell(REMOVE, remove(&world.owner.user_id)).await;
    let removed = developer.tell(REMOVE, remove(&world.viewer.user_id)).await;
    assert_eq!(removed["warning"], Value::Null);
    let lowered = developer.tell(SET, by_user(&developer.user_id, "VIEWER")).await;
    assert_eq!(lowered["warning"], "ACCESS_WARNING_LAST_EXPLICIT_ADMIN");
    assert!(world.may(&world.owner, "project.delete").await);
    assert_eq!(world.owner.refused(REMOVE, remove(&world.viewer.user_id)).await, "NOT_FOUND");

    // An Admin of the organization sees who may, enters only by a grant, and the log tells that it was
    // their own.
    let list = "identity.v1.ProjectAccessService/ListProjectAccess";
    let grants = world.admin.tell(list, world.there(json!({}))).await;
    assert_eq!(grants["grants"].as_array().unwrap().len(), 1);
    assert!(!world.may(&world.admin, "project.view").await);
    world.admin.tell(SET, by_user(&world.admin.user_id, "DEVELOPER")).await;
    assert!(world.may(&world.admin, "project.view").await);
    suite.logged().await;
    let entries = json!({ "orgId": world.org, "pageSize": 100 });
    let entries = world.owner.tell("audit.v1.AuditService/ListEntries", entries).await;
    let own = |it: &&Value| {
        let it = &it["envelope"];
        it["event"]["selfGrant"] == true && it["actor"]["email"] == json!(world.admin.email)
    };
    assert_eq!(entries["entries"].as_array().unwrap().iter().filter(own).count(), 1);
    suite.finish().await;
}

/// ID-7, ID-18 to ID-23, ID-25: who goes takes along what they had, but not their name in the log; who
/// comes back starts anew; and an invitation brings its teams.
#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_takes_along_what_they_had_and_comes_back_without_it() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let team = world.team("Support", &[&world.admin, &world.developer]).await;
    world.grant(json!({ "userId": world.developer.user_id }), "ADMIN").await;
    let key = json!({ "name": "ci" });
    let method = "identity.v1.ApiKeyService/CreateProjectApiKey";
    let key = world.developer.tell(method, world.there(key)).await;
    let program = world.developer.with_token(&text(&key["token"]));
    program.tell("project.v1.ProjectService/GetProject", world.there(json!({}))).await;

    let leave = format!("{MEMBERS}/LeaveOrganization");
    assert_eq!(world.owner.refused(&leave, world.here(json!({}))).await, "OWNER_CANNOT_LEAVE");
    world.developer.tell(&leave, world.here(json!({}))).await;
    let get = "identity.v1.OrganizationService/GetOrganization";
    assert_eq!(world.developer.refused(get, world.here(json!({}))).await, "NOT_FOUND");
    let there = world.there(json!({}));
    let refused = program.refused("project.v1.ProjectService/GetProject", there).await;
    assert!(["INVALID_CREDENTIAL", "NOT_FOUND"].contains(&refused.as_str()), "{refused}");

    let remove = format!("{MEMBERS}/RemoveMember");
    let of = |id: &str| world.here(json!({ "userId": id }));
    assert_eq!(world.admin.refused(&remove, of(&world.owner.user_id)).await, "OWNER_CANNOT_LEAVE");
    assert_eq!(world.admin.refused(&remove, of(&world.admin.user_id)).await, "SELF_REMOVAL");
    assert_eq!(world.viewer.refused(&remove, of(&world.admin.user_id)).await, "MISSING_PERMISSION");
    let removed = world.owner.tell(&remove, of(&world.admin.user_id)).await;
    assert_eq!(removed["removedTeamCount"], 1);
    assert_eq!(world.admin.refused(get, world.here(json!({}))).await, "NOT_FOUND");

    suite.logged().await;
    let entries = json!({ "orgId": world.org, "pageSize": 100 });
    let entries = world.owner.tell("audit.v1.AuditService/ListEntries", entries).await;
    let left = entries["entries"]
        .as_array()
        .unwrap()
        .iter()
        .find(|it| text(&it["envelope"]["event"]["@type"]).ends_with("MemberLeft"));
    assert_eq!(left.unwrap()["envelope"]["actor"]["email"], "developer@example.com");

    admit(&world.owner, &world.org, &world.developer, "VIEWER").await;
    let team_ids = json!([world.team("New", &[]).await]);
    let invite = json!({
        "email": "new@example.com", "role": "ORG_ROLE_VIEWER", "teamIds": team_ids
    });
    let new = suite.person("new@example.com").await;
    let method = "invitation.v1.InvitationService/CreateInvitation";
    world.owner.tell(method, world.here(invite)).await;
    let token = suite.mailbox.token("new@example.com", "tny_inv_").await.unwrap();
    let accept = json!({ "token": token });
    new.tell("invitation.v1.InvitationService/AcceptInvitation", accept).await;
    let of = world.here(json!({ "teamId": team_ids[0] }));
    let members = world.owner.tell(&format!("{TEAMS}/ListTeamMembers"), of).await;
    assert_eq!(members["members"][0]["userId"], new.user_id);
    let there = world.there(json!({}));
    assert_eq!(
        world.developer.refused("project.v1.ProjectService/GetProject", there).await,
        "NOT_FOUND",
        "earlier grants do not come back"
    );
    let old = world.here(json!({ "teamId": team }));
    let old = world.owner.tell(&format!("{TEAMS}/GetTeam"), old).await;
    assert_eq!(old["team"]["memberCount"], Value::Null);
    suite.finish().await;
}

/// ID-9, ID-10, ID-45: lists are searched and paged, and hold what their reader may see.
#[tokio::test(flavor = "multi_thread")]
async fn lists_are_searched_and_paged() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    join(&suite, &world.owner, &world.org, "Zoe.Miller@example.com", "VIEWER").await;
    let list = async |more: Value| {
        let method = format!("{MEMBERS}/ListMembers");
        let answer = world.viewer.tell(&method, world.here(more)).await;
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

    let projects =
        world.developer.tell("project.v1.ProjectService/ListProjects", world.here(json!({}))).await;
    assert_eq!(projects["projects"], Value::Null, "nothing granted, nothing seen");
    let projects =
        world.admin.tell("project.v1.ProjectService/ListProjects", world.here(json!({}))).await;
    assert_eq!(projects["projects"].as_array().unwrap().len(), 1);

    world.team("Support", &[]).await;
    let teams = |query: &str| world.here(json!({ "query": query }));
    let found = world.viewer.tell(&format!("{TEAMS}/ListTeams"), teams("PORT")).await;
    assert_eq!(found["teams"][0]["name"], "Support");
    let taken = world.here(json!({ "name": "  support " }));
    assert_eq!(world.admin.refused(&format!("{TEAMS}/CreateTeam"), taken).await, "TEAM_NAME_TAKEN");
    let team = &found["teams"][0];
    let update = json!({
        "teamId": team["id"], "color": "#aabbcc", "updateMask": "color", "etag": team["etag"]
    });
    let updated =
        world.admin.tell(&format!("{TEAMS}/UpdateTeam"), world.here(update.clone())).await;
    assert_eq!(
        (&updated["team"]["color"], &updated["team"]["name"]),
        (&json!("#AABBCC"), &json!("Support"))
    );
    assert_eq!(
        world.admin.refused(&format!("{TEAMS}/UpdateTeam"), world.here(update)).await,
        "CONFLICT"
    );
    suite.finish().await;
}
