//! Members, teams and projects with more belongings than one event has a place for.

use serde_json::{Value, json};
use testkit::Suite;

use crate::{
    ledger::Ledger,
    world::{World, text},
};

const PROJECTS: i64 = 400;

/// Projects by the hundred, each with a grant of its own to somebody.
async fn grant_many(suite: &Suite, world: &World, holder: &'static str, id: &str) {
    let granted = match holder {
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
    let granted = sqlx::query(granted).bind(&world.org).bind(id).bind(&world.owner.user_id);
    granted.bind(PROJECTS).execute(&suite.pool).await.unwrap();
}

/// Everything that the events of an action list, which follow from one primary event.
async fn listed(ledger: &Ledger, action: &str, list: &str, primary: &str) -> Vec<Value> {
    let entries = ledger.find(json!({ "action": action })).await;
    let of_primary = entries.iter().filter(|it| it["envelope"]["parentEventId"] == primary);
    let items = of_primary.filter_map(|it| it["envelope"]["event"][list].as_array());
    items.flatten().cloned().collect()
}

async fn primary(ledger: &Ledger, action: &str) -> Value {
    ledger.find(json!({ "action": action })).await[0]["envelope"].clone()
}

/// ID-19: a member with hundreds of grants is removed like any other, and the log lists each of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_hundreds_of_grants_is_removed() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    grant_many(&suite, &world, "user_id", &world.developer.user_id).await;
    let team = world.team("crew", &[&world.developer]).await;
    let remove = world.here(json!({ "userId": world.developer.user_id }));
    let removed = world.owner.tell("identity.v1.MemberService/RemoveMember", remove).await;
    assert_eq!(
        (&removed["removedGrantCount"], &removed["removedTeamCount"]),
        (&json!(400), &json!(1))
    );
    assert_eq!(suite.count("select count(*) from identity.project_grant").await, 1, "the owner's");
    suite.logged().await;
    let ledger = Ledger::new(&suite, &world.owner, &world.org).await;
    let event = primary(&ledger, "member.removed").await;
    assert_eq!(event["event"]["removedGrantCount"], 400);
    let id = text(&event["id"]);
    let grants = listed(&ledger, "project.grants_removed", "grants", &id).await;
    let projects: std::collections::BTreeSet<_> =
        grants.iter().map(|it| text(&it["projectId"])).collect();
    assert_eq!(projects.len(), 400);
    assert_eq!(listed(&ledger, "member.teams_left", "teamIds", &id).await, [json!(team)]);
    suite.finish().await;
}

/// ID-28: the same for a team, and for a project that many teams entered.
#[tokio::test(flavor = "multi_thread")]
async fn a_team_with_hundreds_of_projects_and_a_project_with_hundreds_of_teams_go() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let team = world.team("crew", &[&world.viewer]).await;
    grant_many(&suite, &world, "team_id", &team).await;
    let delete = world.here(json!({ "teamId": team }));
    let deleted = world.owner.tell("identity.v1.TeamService/DeleteTeam", delete).await;
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
    let get = world.there(json!({}));
    let project = world.owner.tell("project.v1.ProjectService/GetProject", get).await;
    let delete = world.there(json!({ "confirmName": project["project"]["name"], "confirm": true }));
    world.owner.tell("project.v1.ProjectService/DeleteProject", delete).await;
    let left = "select count(*) from identity.project_grant";
    testkit::eventually("the end of the project's grants", async || {
        (suite.count(left).await == 0).then_some(())
    })
    .await;
    suite.logged().await;
    let ledger = Ledger::new(&suite, &world.owner, &world.org).await;
    for (action, lists) in [("team.deleted", "crew"), ("project.unregistered", "")] {
        let event = primary(&ledger, action).await;
        let count = if lists.is_empty() { 401 } else { 400 };
        assert_eq!(event["event"]["removedGrantCount"], count, "{action}");
    }
    suite.finish().await;
}
