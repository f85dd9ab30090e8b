//! Paged lists of AccessService in a large organization.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use testkit::{Person, Suite};

use crate::support::world::{World, merge, text};

/// Number of members in addition to those of `World`.
const MEMBERS: i64 = 150;

/// Creates [`MEMBERS`] members in a team with a grant on the project; returns the id of the team.
async fn add_members(suite: &Suite, world: &World) -> String {
    let team = world.create_team("crew", &[]).await;
    world.grant(json!({ "teamId": team }), "DEVELOPER").await;
    let insert = "with account as (
            insert into identity.account (id, email, canonical_email, display_name,
                                          email_verified_at, created_at)
            select gen_random_uuid(), 'm' || n || '@example.com', 'm' || n || '@example.com',
                   n::text, now(), now()
            from generate_series(1, $3) as n returning id
        ), member as (
            insert into identity.member (id, org_id, user_id, role, created_at)
            select gen_random_uuid(), $1::uuid, id, 'developer', now() from account returning user_id
        )
        insert into identity.team_member (id, org_id, team_id, user_id, created_at)
        select gen_random_uuid(), $1::uuid, $2::uuid, user_id, now() from member";
    let insert = sqlx::query(insert).bind(&world.org).bind(&team).bind(MEMBERS);
    // The version invalidates cached snapshots.
    let new_version =
        "update identity.organization set access_version = access_version + 1 where id = $1::uuid";
    let mut tx = suite.pool.begin().await.unwrap();
    sqlx::query(new_version).bind(&world.org).execute(&mut *tx).await.unwrap();
    insert.execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    team
}

/// All items of a paged list; checks the size of each page.
async fn all_pages(person: &Person, method: &str, list: &str, request: Value) -> Vec<Value> {
    let mut all = vec![];
    let mut token = String::new();
    loop {
        let next = merge(request.clone(), json!({ "pageSize": 40, "pageToken": token }));
        let page = person.call_ok(&format!("identity.v1.AccessService/{method}"), next).await;
        let items = page[list].as_array().cloned().unwrap_or_default();
        assert!(items.len() <= 40, "{method}: {}", items.len());
        all.extend(items);
        token = text(&page["nextPageToken"]);
        if token.is_empty() {
            return all;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn access_lists_and_simulations_are_paged() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let team = add_members(&suite, &world).await;
    let deploy = world.project_request(json!({ "permission": "project.environments.deploy" }));
    let ids = |items: &[Value]| items.iter().map(|it| text(&it["userId"])).collect::<BTreeSet<_>>();
    let holders = all_pages(&world.admin, "ListWhoCan", "holders", deploy.clone()).await;
    assert_eq!((holders.len(), ids(&holders).len()), (151, 151), "the team, and the Owner");
    assert!(
        holders.iter().all(|it| !it["path"].as_array().unwrap().is_empty()),
        "each with its path"
    );
    let project_holders =
        all_pages(&world.owner, "ListProjectHolders", "holders", world.project_request(json!({})))
            .await;
    assert_eq!(ids(&project_holders).len(), 152, "the Admin, too");

    let changes = json!([{ "deleteTeam": { "teamId": team } }]);
    let simulate = world.org_request(json!({ "changes": changes }));
    let simulated =
        all_pages(&world.admin, "SimulateAccess", "differences", simulate.clone()).await;
    assert_eq!((simulated.len(), ids(&simulated).len()), (150, 150));
    // A page token is bound to its request.
    let first = merge(simulate, json!({ "pageSize": 1 }));
    let page = world.admin.call_ok("identity.v1.AccessService/SimulateAccess", first).await;
    let changes = json!([{ "removeMember": { "userId": world.viewer.user_id } }]);
    let other = json!({ "changes": changes, "pageToken": page["nextPageToken"] });
    let reason =
        world.admin.call_err("identity.v1.AccessService/SimulateAccess", world.org_request(other));
    assert_eq!(reason.await, "INVALID_PAGE_TOKEN");
    suite.finish().await;
}
