//! A million users, a hundred thousand organizations, a million memberships and a million grants: what a
//! check costs then, cold and warm, and how much memory this process holds.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use api::identity::{self as pb, access_service_client::AccessServiceClient};
use sqlx::{Connection, Executor, PgConnection};
use tonic::{Request, metadata::MetadataValue, transport::Channel};

use crate::{load, median, noop, row, say, suite::Suite};

/// Organizations that are loaded, each with ten members, two projects and ten grants.
const ORGS: u64 = 100_000;

/// Loads everything by SQL: members in every organization, and Ann in all of them. Ids follow from numbers.
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
    // Five hundred more with a hundred members each, for the first check of a cold organization.
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

/// Measures memory and time.
pub(crate) async fn run() -> Result<()> {
    let suite = Suite::start(&noop::without_log()).await?;
    let token = suite.sign_in("ann@example.com").await?;
    let few = small(&suite, &token).await?;
    let mut connection = PgConnection::connect_with(&suite.options).await?;
    for statement in LOAD {
        connection.execute(*statement).await.with_context(|| (*statement).to_owned())?;
    }
    connection.execute("analyze").await?;
    let before = resident_mib()?;
    let many = checks(&suite, &token, ORGS).await?;
    let hot = checks(&suite, &token, 100).await?;
    let memory = resident_mib()?;
    row("`Check` in 1 of 100, with 100,000 others (with none)", hot, few, "1, does not grow");
    say(&format!(
        "| `Check` all over 100,000 organizations, most of them cold | {many:.0}/s | | | |\n"
    ));
    say(&format!(
        "| resident memory, server and load generator, 1 M memberships ({before} MiB before) \
         | {memory} MiB | | | ≤ 400 MiB |\n"
    ));
    let cold = cold(&suite, &token).await?;
    say(&format!(
        "| first check of a cold organization of 100 members, median of 500 | {:.2} ms | | | ≤ 5 ms |\n",
        cold * 1_000.0
    ));
    suite.stop().await
}

fn org(kind: u32, number: u64) -> String {
    format!("{kind:08x}-0000-7000-8000-{number:012x}")
}

/// The rate in a hundred organizations without any others.
async fn small(suite: &Suite, token: &str) -> Result<f64> {
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
    let rate = checks(suite, token, 100).await?;
    let forget = "set session_replication_role = replica; delete from identity.member;
        delete from identity.organization; delete from identity.access_fact";
    connection.execute(forget).await?;
    Ok(rate)
}

async fn checks(suite: &Suite, token: &str, orgs: u64) -> Result<f64> {
    let channels = load::channels(suite.address).await?;
    let bearer: MetadataValue<_> = format!("Bearer {token}").parse()?;
    let mut rates = vec![];
    for _ in 0..3 {
        let (channels, bearer) = (channels.clone(), bearer.clone());
        let rate = load::rate(64, move |caller, number| {
            // All over them, in no order.
            let number = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
            let org_id = org(2, number % orgs + 1);
            let call = check(channels[caller % channels.len()].clone(), bearer.clone(), org_id);
            async move { call.await.map(|_| ()) }
        });
        rates.push(rate.await?);
    }
    Ok(median(rates))
}

async fn check(
    channel: Channel,
    bearer: MetadataValue<tonic::metadata::Ascii>,
    org_id: String,
) -> Result<bool> {
    let permission = "org.view".to_owned();
    let mut request = Request::new(pb::CheckRequest { org_id, permission, ..Default::default() });
    request.metadata_mut().insert("authorization", bearer);
    let answer = AccessServiceClient::new(channel).check(request).await?.into_inner();
    anyhow::ensure!(answer.allowed, "Ann is a member everywhere");
    Ok(answer.allowed)
}

/// Seconds.
async fn cold(suite: &Suite, token: &str) -> Result<f64> {
    let channel = load::channels(suite.address).await?.remove(0);
    let bearer: MetadataValue<_> = format!("Bearer {token}").parse()?;
    let (mut times, next) = (vec![], AtomicU64::new(1));
    for _ in 0..500 {
        let org_id = org(7, next.fetch_add(1, Ordering::Relaxed));
        let start = Instant::now();
        check(channel.clone(), bearer.clone(), org_id).await?;
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(median(times))
}

fn resident_mib() -> Result<u64> {
    std::thread::sleep(Duration::from_millis(100));
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib / 1024)
}
