//! Lists about the access of a large organization come in pages.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use testkit::{Person, Suite};

use crate::world::{World, merge, text};

const MEMBERS: i64 = 150;

/// Members by the hundred, all in a team with a grant on the project.
async fn crowd(suite: &Suite, world: &World) -> String {
    let team = world.team("crew", &[]).await;
    world.grant(json!({ "teamId": team }), "DEVELOPER").await;
    let joined = "with account as (
            insert into identity.account (id, email, canonical_email, display_name,
                                          email_verified_at, created_at)
            select gen_random_uuid(), 'm' || n || '@example.com', 'm' || n || '@example.com',
                   n::text, now(), now()
            from generate_series(1, $3) as n returning id
        ), member as (
            insert into identity.member (id, org_id, user_id, role, created_at)
            select gen_random_uuid(), $1::uuid, id, 'viewer', now() from account returning user_id
        )
        insert into identity.team_member (id, org_id, team_id, user_id, created_at)
        select gen_random_uuid(), $1::uuid, $2::uuid, user_id, now() from member";
    let joined = sqlx::query(joined).bind(&world.org).bind(&team).bind(MEMBERS);
    // The version is what says that facts are new.
    let newer =
        "update identity.organization set access_version = access_version + 1 where id = $1::uuid";
    let mut tx = suite.pool.begin().await.unwrap();
    sqlx::query(newer).bind(&world.org).execute(&mut *tx).await.unwrap();
    joined.execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    team
}

/// Every item of a list, page by page, none of which is longer than asked for.
async fn pages(who: &Person, method: &str, list: &str, question: Value) -> Vec<Value> {
    let (mut all, mut token) = (vec![], String::new());
    loop {
        let ask = merge(question.clone(), json!({ "pageSize": 40, "pageToken": token }));
        let page = who.tell(&format!("identity.v1.AccessService/{method}"), ask).await;
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
async fn lists_of_who_can_and_of_what_would_differ_are_paged() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let team = crowd(&suite, &world).await;
    let deploy = world.there(json!({ "permission": "project.environments.deploy" }));
    let ids = |items: &[Value]| items.iter().map(|it| text(&it["userId"])).collect::<BTreeSet<_>>();
    let holders = pages(&world.admin, "ListWhoCan", "holders", deploy.clone()).await;
    assert_eq!((holders.len(), ids(&holders).len()), (151, 151), "the team, and the Owner");
    assert!(holders.iter().all(|it| !it["path"].as_array().unwrap().is_empty()), "each with why");
    let opened = pages(&world.owner, "ListProjectHolders", "holders", world.there(json!({}))).await;
    assert_eq!(ids(&opened).len(), 152, "an Admin enters, too");

    let changes = json!([{ "deleteTeam": { "teamId": team } }]);
    let simulate = world.here(json!({ "changes": changes }));
    let would = pages(&world.admin, "SimulateAccess", "differences", simulate.clone()).await;
    assert_eq!((would.len(), ids(&would).len()), (150, 150));
    // A token belongs to its list: the same one of other changes is none.
    let ask = merge(simulate, json!({ "pageSize": 1 }));
    let page = world.admin.tell("identity.v1.AccessService/SimulateAccess", ask).await;
    let changes = json!([{ "removeMember": { "userId": world.viewer.user_id } }]);
    let other = json!({ "changes": changes, "pageToken": page["nextPageToken"] });
    let refused =
        world.admin.refused("identity.v1.AccessService/SimulateAccess", world.here(other));
    assert_eq!(refused.await, "INVALID_PAGE_TOKEN");
    suite.finish().await;
}
