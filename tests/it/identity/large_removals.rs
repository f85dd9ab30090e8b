//! Removal of members, teams and projects with more grants than fit into one event.

use serde_json::{Value, json};
use testkit::Suite;

use crate::support::{
    audit_client::AuditClient,
    world::{World, text},
};

const PROJECTS: i64 = 400;

/// Creates [`PROJECTS`] projects with one grant each to a user or a team.
async fn grant_many(suite: &Suite, world: &World, holder: &'static str, id: &str) {
    let insert = match holder {
        "user_id" => {
            "with made as (
                 insert into identity.project (org_id, id)
                 select $1::uuid, gen_random_uuid() from generate_series(1, $4) returning id
             )
             insert into identity.project_grant
                 (id, org_id, project_id, user_id, role, granted_by, created_at)
             select gen_random_uuid(), $1::uuid, id, $2::uuid, 'developer', $3::uuid, now() from made"
        }
        _ => {
            "with made as (
                 insert into identity.project (org_id, id)
                 select $1::uuid, gen_random_uuid() from generate_series(1, $4) returning id
             )
             insert into identity.project_grant
                 (id, org_id, project_id, team_id, role, granted_by, created_at)
             select gen_random_uuid(), $1::uuid, id, $2::uuid, 'developer', $3::uuid, now() from made"
        }
    };
    let insert = sqlx::query(insert).bind(&world.org).bind(id).bind(&world.owner.user_id);
    insert.bind(PROJECTS).execute(&suite.pool).await.unwrap();
}

/// Items of a list field over all secondary events of an action and a primary event.
async fn listed_items(log: &AuditClient, action: &str, list: &str, primary: &str) -> Vec<Value> {
    let entries = log.entries(json!({ "action": action })).await;
    let of_primary = entries.iter().filter(|it| it["envelope"]["parentEventId"] == primary);
    let items = of_primary.filter_map(|it| it["envelope"]["event"][list].as_array());
    items.flatten().cloned().collect()
}

/// The newest event of an action.
async fn newest_event(log: &AuditClient, action: &str) -> Value {
    log.entries(json!({ "action": action })).await[0]["envelope"].clone()
}

/// ID-19: a member with hundreds of grants is removed; the log lists each grant.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_hundreds_of_grants_is_removed() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    grant_many(&suite, &world, "user_id", &world.developer.user_id).await;
    let team = world.create_team("crew", &[&world.developer]).await;
    let remove = world.org_request(json!({ "userId": world.developer.user_id }));
    let removed = world.owner.call_ok("identity.v1.MemberService/RemoveMember", remove).await;
    assert_eq!(
        (&removed["removedGrantCount"], &removed["removedTeamCount"]),
        (&json!(400), &json!(1))
    );
    assert_eq!(suite.count("select count(*) from identity.project_grant").await, 1, "the owner's");
    suite.wait_for_log().await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    let event = newest_event(&log, "member.removed").await;
    assert_eq!(event["event"]["removedGrantCount"], 400);
    let id = text(&event["id"]);
    let grants = listed_items(&log, "project.grants_removed", "grants", &id).await;
    let projects: std::collections::BTreeSet<_> =
        grants.iter().map(|it| text(&it["projectId"])).collect();
    assert_eq!(projects.len(), 400);
    assert_eq!(listed_items(&log, "member.teams_left", "teamIds", &id).await, [json!(team)]);
    suite.finish().await;
}

/// ID-28: a team with hundreds of grants, and a project with grants of hundreds of teams.
#[tokio::test(flavor = "multi_thread")]
async fn a_team_with_hundreds_of_projects_and_a_project_with_hundreds_of_teams_are_deleted() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let team = world.create_team("crew", &[&world.viewer]).await;
    grant_many(&suite, &world, "team_id", &team).await;
    let delete = world.org_request(json!({ "teamId": team }));
    let deleted = world.owner.call_ok("identity.v1.TeamService/DeleteTeam", delete).await;
    assert_eq!(
        (&deleted["removedGrantCount"], &deleted["removedMemberCount"]),
        (&json!(400), &json!(1))
    );

    let teams = "with made as (
                     insert into identity.team (id, org_id, name, name_key, description, color, revision,
                         created_at)
                     select gen_random_uuid(), $1::uuid, n::text, n::text, '', '#808080', 1, now()
                     from generate_series(1, 400) as n returning id
                 )
                 insert into identity.project_grant
                     (id, org_id, project_id, team_id, role, granted_by, created_at)
                 select gen_random_uuid(), $1::uuid, $2::uuid, id, 'viewer', $3::uuid, now() from made";
    let teams = sqlx::query(teams).bind(&world.org).bind(&world.project).bind(&world.owner.user_id);
    teams.execute(&suite.pool).await.unwrap();
    let get = world.project_request(json!({}));
    let project = world.owner.call_ok("project.v1.ProjectService/GetProject", get).await;
    let delete = world
        .project_request(json!({ "confirmName": project["project"]["name"], "confirm": true }));
    world.owner.call_ok("project.v1.ProjectService/DeleteProject", delete).await;
    let grants = "select count(*) from identity.project_grant";
    testkit::eventually("the end of the project's grants", async || {
        (suite.count(grants).await == 0).then_some(())
    })
    .await;
    suite.wait_for_log().await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    for (action, count) in [("team.deleted", 400), ("project.unregistered", 401)] {
        let event = newest_event(&log, action).await;
        assert_eq!(event["event"]["removedGrantCount"], count, "{action}");
    }
    suite.finish().await;
}
