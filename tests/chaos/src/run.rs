//! The run: faults under load, the time until every replica is healthy after each, and the checks at the end.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use sqlx::{Connection, PgConnection};
use testkit::load::{Endpoints, Ledger, Load};

use crate::{
    cluster::{Cluster, Options},
    control_group,
    fault::Deck,
    health::Probe,
    network::MACHINES,
    print,
    seats::Contest,
    tenants,
};

/// Number of organizations under load.
const TENANTS: usize = 3;
/// Calls per second of each load.
const CALLS_PER_SECOND: f64 = 8.0;
/// Longest time from the end of a fault until every replica is healthy.
const HEALTHY_GOAL: Duration = Duration::from_secs(10);
/// Time without a fault before the next one.
const CALM: Duration = Duration::from_secs(4);

/// Figures of a fault.
struct Row {
    fault: String,
    at: Duration,
    lasted: Duration,
    /// Time from its end until every replica was healthy.
    healthy_after: Duration,
    slowest: String,
}

impl Row {
    fn print(&self, number: usize) {
        let Self { fault, at, lasted, healthy_after, slowest } = self;
        let miss = if *healthy_after > HEALTHY_GOAL { " **miss**" } else { "" };
        print(&format!(
            "| {number} | {:.0} s | {fault} | {:.1} s | {:.1} s{miss} | {slowest} |",
            at.as_secs_f64(),
            lasted.as_secs_f64(),
            healthy_after.as_secs_f64()
        ));
    }
}

/// Runs for a time with the faults of a seed. Returns true if all checks have passed.
pub(crate) async fn run(folder: &Path, seconds: u64, seed: u64) -> Result<bool> {
    print(&format!("seed {seed}, {seconds} s"));
    // Without the controller the run has the weight of any other program.
    let _ = control_group::create(folder, "run", None).and_then(|it| control_group::enter(&it));
    let options = Options { machines: MACHINES, control_groups: vec![] };
    let mut cluster = Cluster::start(folder, options).await?;
    let begun = Instant::now();
    Probe::wait_until_ready(&mut cluster, begun).await?;
    let mut loads = vec![];
    let gateway = tenants::channel(tenants::GATEWAY, &cluster.authority)?;
    let mut probe = None;
    for number in 0..TENANTS {
        let tenant = tenants::create(&cluster, &format!("tenant-{number}")).await;
        let tenant = tenant.context("an organization is created")?;
        probe = probe.or(Some(Probe::new(&tenant)));
        loads.push(Load::start(tenant, Endpoints::shared(&gateway), CALLS_PER_SECOND));
    }
    let probe = probe.context("an organization")?;
    let contest = Contest::start(&cluster).await?;
    print(&format!("the cluster serves after {:.1} s", begun.elapsed().as_secs_f64()));
    print("| | at | fault | lasted | every replica healthy after | slowest |");
    print("|---|---|---|---|---|---|");
    let rows = inject(&mut cluster, &probe, seconds, seed).await?;
    let crashes = cluster.crashes();
    let mut is_passed = rows.iter().all(|it| it.healthy_after <= HEALTHY_GOAL);
    for load in loads {
        is_passed &= check(load.stop().await, &mut cluster).await?;
    }
    let seats = contest.stop();
    print(&format!(
        "seats: {} rounds, {} joined, {} rounds with more members than seats",
        seats.rounds, seats.joined, seats.exceeded
    ));
    if seats.joined == 0 {
        print(&format!("nobody joined: {}", seats.last_error));
    }
    is_passed &= seats.exceeded == 0 && seats.joined > 0;
    summarize(&rows, &crashes);
    is_passed &= check_database().await?;
    print(if is_passed { "passed" } else { "NOT passed" });
    Ok(is_passed)
}

/// Injects faults until the time is over.
async fn inject(cluster: &mut Cluster, probe: &Probe, seconds: u64, seed: u64) -> Result<Vec<Row>> {
    let mut deck = Deck::new(seed);
    let begun = Instant::now();
    let mut rows: Vec<Row> = vec![];
    while begun.elapsed() < Duration::from_secs(seconds) {
        cluster.run_for(CALM).await?;
        let (faults, duration) = deck.draw();
        let at = begun.elapsed();
        for fault in &faults {
            fault.begin(cluster).with_context(|| format!("{fault} begins"))?;
        }
        cluster.run_for(duration).await?;
        for fault in &faults {
            fault.end(cluster).with_context(|| format!("{fault} ends"))?;
        }
        let lasted = begun.elapsed().saturating_sub(at);
        let healthy = probe.wait(cluster, Instant::now()).await?;
        let slowest = healthy.into_iter().max_by_key(|it| it.after).context("replicas")?;
        let names: Vec<_> = faults.iter().map(ToString::to_string).collect();
        let row = Row {
            fault: names.join("; "),
            at,
            lasted,
            healthy_after: slowest.after,
            slowest: slowest.name,
        };
        row.print(rows.len() + 1);
        rows.push(row);
    }
    Ok(rows)
}

/// Checks the ledger of a load; meanwhile programs are started again that have ended.
async fn check(ledger: Ledger, cluster: &mut Cluster) -> Result<bool> {
    let checked = ledger.check();
    tokio::pin!(checked);
    let outcome = loop {
        tokio::select! {
            outcome = &mut checked => break outcome,
            () = tokio::time::sleep(Duration::from_millis(250)) => cluster.supervise()?,
        }
    };
    print(&format!("load: {outcome}"));
    if outcome.lost + outcome.duplicated > 0 {
        print(&outcome.errors);
    }
    Ok(outcome.lost == 0 && outcome.duplicated == 0)
}

/// Prints the summary of the faults.
fn summarize(rows: &[Row], crashes: &[(String, usize)]) {
    let mut times: Vec<_> = rows.iter().map(|it| it.healthy_after).collect();
    times.sort();
    let misses = times.iter().filter(|it| **it > HEALTHY_GOAL).count();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let largest = times.last().copied().unwrap_or_default();
    print(&format!(
        "{} faults; healthy after {:.1} s (median), {:.1} s (largest), {misses} later than {} s",
        times.len(),
        median.as_secs_f64(),
        largest.as_secs_f64(),
        HEALTHY_GOAL.as_secs()
    ));
    let crashes: Vec<_> = crashes.iter().map(|(name, count)| format!("{name} {count}x")).collect();
    print(&format!("ended by themselves and started again: {}", crashes.join(", ")));
}

/// Statements that count what must not exist.
const INVARIANTS: [(&str, &str); 5] = [
    (
        "organizations without exactly one Owner",
        "select count(*) from (select org_id from identity.member group by org_id
         having count(*) filter (where role = 'owner') <> 1) as counted",
    ),
    (
        "organizations whose count of members is wrong",
        "select count(*) from identity.organization where member_count <>
         (select count(*) from identity.member where org_id = organization.id)",
    ),
    (
        "events of an outbox that are not in the log",
        "select count(*) from (select id from identity.outbox union all select id from project.outbox
         union all select id from invitation.outbox) as written
         where not exists (select from audit.entry where event_id = written.id)",
    ),
    (
        "events that are in the log twice",
        "select count(*) from (select event_id from audit.entry group by event_id
         having count(*) > 1) as counted",
    ),
    (
        "acceptances of members that are not counted",
        "select count(*) from (
         select invitation_id from identity.member where invitation_id is not null
         except select invitation_id from invitation.acceptance) as counted",
    ),
];

/// Checks all organizations in the database.
async fn check_database() -> Result<bool> {
    let mut connection = PgConnection::connect_with(&Cluster::database_options()).await?;
    let mut is_passed = true;
    for (name, query) in INVARIANTS {
        let mut count: i64 = -1;
        // The last events and reactions are on their way.
        for _ in 0..100 {
            count = sqlx::query_scalar(query).fetch_one(&mut connection).await?;
            if count == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        print(&format!("{name}: {count}"));
        is_passed &= count == 0;
    }
    Ok(is_passed)
}
