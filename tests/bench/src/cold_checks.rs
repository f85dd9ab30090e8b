//! Checks in organizations of 100,000 members and 10,000 projects: the first one, for which nothing is
//! cached, and the one after a change of access.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};
use tenantry::client::Client;

use crate::{median, mutation::create_sample_project, noop, print, suite::Suite};

/// Organizations, in each of which one check is the first.
const ORGS: u32 = 5;

/// Changes of access, each with a check after it.
const CHANGES: u32 = 60;

/// SQL statements that create the organizations, of which Ann is an Admin. `large` derives an id from the
/// kind of the object, the organization and the number. Kinds: 1 account, 2 organization, 3 member,
/// 4 project, 5 grant. Triggers do not run, so the rows that they would write are inserted, too.
const LOAD: &[&str] = &[
    "set search_path = identity; set session_replication_role = replica; set synchronous_commit = off",
    "create function large(kind int, org int, n int) returns uuid language sql immutable as
     $$ select (lpad(to_hex(kind), 8, '0') || '-' || lpad(to_hex(org), 4, '0') || '-7000-8000-'
                || lpad(to_hex(n), 12, '0'))::uuid $$",
    "insert into account (id, email, canonical_email, display_name, created_at, search_key)
     select large(1, 0, n), email, email, 'User', now(), email
     from generate_series(1, 100000) as n, lateral (select 'l' || n || '@example.com' as email) as address",
    "insert into organization (id, name, slug, plan, owner_id, created_by, access_version, created_at,
         member_count, project_count)
     select large(2, org, 0), 'Org', 'large-' || org, 'pro', large(1, 0, 1), large(1, 0, 1), 1, now(), 100001,
            10000
     from generate_series(1, 5) as org",
    "insert into member (id, org_id, user_id, role, created_at)
     select large(3, org, n), large(2, org, 0), large(1, 0, n),
            case n when 1 then 'owner' else 'developer' end, now()
     from generate_series(1, 5) as org, generate_series(1, 100000) as n
     union all
     select large(3, org, 0), large(2, org, 0), account.id, 'admin', now()
     from generate_series(1, 5) as org, account where email = 'ann@example.com'",
    "insert into project (org_id, id) select large(2, org, 0), large(4, org, n)
     from generate_series(1, 5) as org, generate_series(1, 10000) as n",
    "insert into project_grant (id, org_id, project_id, user_id, role, granted_by, created_at)
     select large(5, org, n), large(2, org, 0), large(4, org, n), account.id, 'admin', account.id, now()
     from generate_series(1, 5) as org, generate_series(1, 10000) as n, account
     where email = 'ann@example.com'",
    "insert into access_change (org_id, version, event_id, changed_at)
     select large(2, org, 0), 1, gen_random_uuid(), now() from generate_series(1, 5) as org",
    "insert into access_fact (org_id, kind, subject_id, place_id, role, from_version)
     select org_id, 'member', user_id, user_id, role, 1 from member
     where org_id between large(2, 1, 0) and large(2, 5, 0)
     union all
     select org_id, 'project', id, id, null, 1 from project
     where org_id between large(2, 1, 0) and large(2, 5, 0)
     union all
     select org_id, 'user_grant', user_id, project_id, role, 1 from project_grant
     where org_id between large(2, 1, 0) and large(2, 5, 0)",
    "reset session_replication_role",
    "analyze",
];

/// Returns the id of an object of an organization.
fn id(kind: u32, org: u32, number: u32) -> String {
    format!("{kind:08x}-{org:04x}-7000-8000-{number:012x}")
}

/// Runs the measurements.
pub(crate) async fn run() -> Result<()> {
    let suite = Suite::start(&noop::without_audit()).await?;
    let token = suite.sign_in("ann@example.com").await?;
    let client = suite.client.with_token(&token);
    let sample = create_sample_project(&suite, &token).await?;
    let mut connection = PgConnection::connect_with(&suite.options).await?;
    for statement in LOAD {
        connection.execute(*statement).await.with_context(|| (*statement).to_owned())?;
    }
    // Opens connections and prepares statements.
    for _ in 0..20 {
        check_ms(&client, &sample.org_id, &sample.project_id).await?;
    }
    let mut first = vec![];
    for org in 1..=ORGS {
        first.push(check_ms(&client, &id(2, org, 0), &id(4, org, 7)).await?);
    }
    print(&format!(
        "| first check of a cold organization of 100,000 members and 10,000 projects, median of {ORGS} \
         | {:.1} ms | | | ≤ 20 ms |\n",
        median(first)
    ));
    let (org_id, project_id) = (id(2, 1, 0), id(4, 1, 7));
    // The whole organization is cached before the first change.
    let who_can = json!({ "orgId": org_id, "permission": "org.view", "pageSize": 1 });
    client.call_json("identity.v1.AccessService/ListWhoCan", who_can).await?;
    let mut after_change = vec![];
    let mut beside_no_change = vec![];
    for number in 0..CHANGES {
        let role =
            if number.is_multiple_of(2) { "PROJECT_ROLE_VIEWER" } else { "PROJECT_ROLE_DEVELOPER" };
        let set = json!({ "orgId": org_id, "projectId": project_id, "role": role,
                          "principal": { "userId": id(1, 0, 2) } });
        client.call_json("identity.v1.ProjectAccessService/SetProjectAccess", set).await?;
        after_change.push(check_ms(&client, &org_id, &project_id).await?);
        beside_no_change.push(check_ms(&client, &org_id, &project_id).await?);
    }
    let (after_change, unchanged) = (median(after_change), median(beside_no_change));
    print(&format!(
        "| fresh check after a change of access in such an organization, median of {CHANGES} \
         (without a change) | {after_change:.2} ms | {unchanged:.2} ms | {:.2} | ≤ 5 ms |\n",
        after_change / unchanged
    ));
    suite.stop().await
}

/// Checks a permission that Ann has on every project; returns the time in milliseconds.
async fn check_ms(client: &Client, org_id: &str, project_id: &str) -> Result<f64> {
    let check = json!({ "orgId": org_id, "projectId": project_id, "permission": "project.view" });
    let start = Instant::now();
    let checked = client.call_json("identity.v1.AccessService/Check", check).await?;
    let time = start.elapsed().as_secs_f64() * 1e3;
    ensure!(checked["allowed"] == true, "the check was denied");
    Ok(time)
}
