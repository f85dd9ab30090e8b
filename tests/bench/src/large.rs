//! Access checks with 1 million users, 100,000 organizations, 1 million memberships and 1 million grants:
//! rate with warm and cold caches, and memory of the process.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use api::identity::{self as pb, access_service_client::AccessServiceClient};
use sqlx::{Connection, Executor, PgConnection};
use tonic::{Request, metadata::MetadataValue, transport::Channel};

use crate::{load, median, memory::resident_mib, noop, print, print_rates, suite::Suite};

/// Number of organizations, each with ten members, two projects and ten grants.
const ORGS: u64 = 100_000;

/// SQL statements that create the data set. Ann is a member of every organization. `made` derives an id from
/// the kind of the object and its number. Kinds: 1 account, 2 organization, 3 member, 4 membership of Ann,
/// 5 project, 6 grant, 7 organization with 100 members.
const LOAD: &[&str] = &[
    "set search_path = identity; set session_replication_role = replica; set synchronous_commit = off",
    "create function made(kind int, n bigint) returns uuid language sql immutable as
     $$ select (lpad(to_hex(kind), 8, '0') || '-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid $$",
    "insert into account (id, email, canonical_email, display_name, created_at)
     select made(1, n), 'u' || n || '@example.com', 'u' || n || '@example.com', 'User', now()
     from generate_series(1, 1000000) as n",
    "insert into organization (id, name, slug, plan, owner_id, created_by, access_version, created_at)
     select made(2, n), 'Org', 'org-' || n, 'pro', made(1, n * 10), made(1, n * 10), 1, now()
     from generate_series(1, 100000) as n",
    "insert into member (id, org_id, user_id, role, created_at)
     select made(3, n), made(2, (n - 1) / 10 + 1), made(1, n),
            case when n % 10 = 0 then 'owner' else 'developer' end, now()
     from generate_series(1, 1000000) as n",
    "insert into member (id, org_id, user_id, role, created_at)
     select made(4, n), made(2, n), account.id, 'viewer', now()
     from generate_series(1, 100000) as n, account where email = 'ann@example.com'",
    "insert into project (org_id, id) select made(2, (n - 1) / 2 + 1), made(5, n)
     from generate_series(1, 200000) as n",
    "insert into project_grant (id, org_id, project_id, user_id, role, granted_by, created_at)
     select made(6, n), made(2, (n - 1) / 10 + 1), made(5, (n - 1) / 5 + 1), made(1, n), 'developer',
            made(1, n), now()
     from generate_series(1, 1000000) as n",
    // 500 organizations with 100 members each, to measure first checks with cold caches.
    "insert into organization (id, name, slug, plan, owner_id, created_by, access_version, created_at)
     select made(7, n), 'Big', 'big-' || n, 'pro', made(1, n), made(1, n), 1, now()
     from generate_series(1, 500) as n",
    "insert into member (id, org_id, user_id, role, created_at)
     select gen_random_uuid(), made(7, n), made(1, m), 'viewer', now()
     from generate_series(1, 500) as n, generate_series(1, 99) as m",
    "insert into member (id, org_id, user_id, role, created_at)
     select gen_random_uuid(), made(7, n), account.id, 'viewer', now()
     from generate_series(1, 500) as n, account where email = 'ann@example.com'",
    "reset session_replication_role",
];

/// Runs all measurements.
pub(crate) async fn run() -> Result<()> {
    let suite = Suite::start(&noop::without_audit()).await?;
    let token = suite.sign_in("ann@example.com").await?;
    let rate_without_others = rate_of_small_data_set(&suite, &token).await?;
    let mut connection = PgConnection::connect_with(&suite.options).await?;
    for statement in LOAD {
        connection.execute(*statement).await.with_context(|| (*statement).to_owned())?;
    }
    connection.execute("analyze").await?;
    let memory_before = settled_resident_mib().await?;
    let cold_rate = check_rate(&suite, &token, ORGS).await?;
    let warm_rate = check_rate(&suite, &token, 100).await?;
    let memory = settled_resident_mib().await?;
    print_rates(
        "`Check` in 100 organizations, with 100,000 others (without others)",
        warm_rate,
        rate_without_others,
        "1, constant",
    );
    print(&format!(
        "| `Check` in random ones of 100,000 organizations, most of them cold | {cold_rate:.0}/s | | | |\n"
    ));
    print(&format!(
        "| resident memory, server and load generator, 1 M memberships ({memory_before} MiB before) \
         | {memory} MiB | | | ≤ 400 MiB |\n"
    ));
    let first_check = first_check_time(&suite, &token).await?;
    print(&format!(
        "| first check of a cold organization of 100 members, median of 500 | {:.2} ms | | | ≤ 5 ms |\n",
        first_check * 1_000.0
    ));
    suite.stop().await
}

/// Kind of the organizations with ten members, in [`LOAD`].
const ORG: u32 = 2;

/// Kind of the organizations with 100 members, in [`LOAD`].
const BIG_ORG: u32 = 7;

/// Returns the id of an organization of the data set.
fn org_id(kind: u32, number: u64) -> String {
    format!("{kind:08x}-0000-7000-8000-{number:012x}")
}

/// Returns the rate of checks in 100 organizations, while the database contains no others.
async fn rate_of_small_data_set(suite: &Suite, token: &str) -> Result<f64> {
    let mut connection = PgConnection::connect_with(&suite.options).await?;
    let organizations = "insert into identity.organization (id, name, slug, plan, owner_id, created_by,
             access_version, created_at)
         select ('00000002-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'Org', 'org-' || n, 'pro',
                id, id, 1, now()
         from generate_series(1, 100) as n, identity.account";
    let members = "insert into identity.member (id, org_id, user_id, role, created_at)
         select gen_random_uuid(), organization.id, owner_id, 'owner', now() from identity.organization";
    for statement in ["begin", organizations, members, "commit"] {
        connection.execute(statement).await?;
    }
    let rate = check_rate(suite, token, 100).await?;
    let delete_all = "set session_replication_role = replica; delete from identity.member;
        delete from identity.organization; delete from identity.access_fact";
    connection.execute(delete_all).await?;
    Ok(rate)
}

/// Returns the rate of checks in `orgs` organizations.
async fn check_rate(suite: &Suite, token: &str, orgs: u64) -> Result<f64> {
    let channels = load::channels(suite.address).await?;
    let bearer: MetadataValue<_> = format!("Bearer {token}").parse()?;
    let mut rates = vec![];
    for _ in 0..3 {
        let channels = channels.clone();
        let bearer = bearer.clone();
        let rate = load::rate(64, move |caller, number| {
            // Multiplicative hashing spreads consecutive calls over all organizations.
            let hash = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
            let org_id = org_id(ORG, hash % orgs + 1);
            check(channels[caller % channels.len()].clone(), bearer.clone(), org_id)
        });
        rates.push(rate.await?);
    }
    Ok(median(rates))
}

/// Checks a permission that Ann has in every organization.
async fn check(
    channel: Channel,
    bearer: MetadataValue<tonic::metadata::Ascii>,
    org_id: String,
) -> Result<()> {
    let permission = "org.view".to_owned();
    let mut request = Request::new(pb::CheckRequest { org_id, permission, ..Default::default() });
    request.metadata_mut().insert("authorization", bearer);
    let response = AccessServiceClient::new(channel).check(request).await?.into_inner();
    anyhow::ensure!(response.allowed, "the check was denied");
    Ok(())
}

/// Returns the median duration of the first check in an organization, in seconds.
async fn first_check_time(suite: &Suite, token: &str) -> Result<f64> {
    let channel = load::channels(suite.address).await?.remove(0);
    let bearer: MetadataValue<_> = format!("Bearer {token}").parse()?;
    let mut times = vec![];
    for number in 1..=500 {
        let org_id = org_id(BIG_ORG, number);
        let start = Instant::now();
        check(channel.clone(), bearer.clone(), org_id).await?;
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(median(times))
}

/// Returns the resident memory of this process in MiB, after a pause in which running tasks end.
async fn settled_resident_mib() -> Result<i64> {
    tokio::time::sleep(Duration::from_millis(100)).await;
    resident_mib()
}
