//! Scale-out: calls per second through the gateway with one, two and three replicas of each service.
//!
//! On a machine with two cores three replicas would only share the cores. So the services of each machine of
//! the cluster have a quota of processor time (a control group), which is the limit that is measured;
//! PostgreSQL, NATS, the gateway and the callers have none.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Result;
use api::{identity as id, invitation as inv, project as prj};
use tenantry::client::CallError;
use testkit::load::Tenant;
use tokio::task::JoinSet;

use crate::{
    cluster::{Cluster, Options},
    control_group,
    health::Probe,
    network::{self, MACHINES, SERVICES},
    print, tenants,
};

/// Processor time of the services of a machine, in percent of a core.
const QUOTA_PERCENT: u32 = 25;
/// Number of organizations, and of callers of each.
const TENANTS: usize = 6;
const CALLERS: usize = 4;
/// Time without a measurement before it, in which the gateway and the services find the replicas.
const WARM_UP: Duration = Duration::from_secs(10);
const DURATION: Duration = Duration::from_secs(15);

/// Calls that are measured.
const OPERATIONS: [Operation; 4] =
    [Operation::Check, Operation::ListProjects, Operation::CreateTeam, Operation::CreateInvitation];

#[derive(Clone, Copy)]
enum Operation {
    Check,
    ListProjects,
    CreateTeam,
    /// `CreateInvitation`, then `RevokeInvitation`: two calls.
    CreateInvitation,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Check => "`Check` (identity)",
            Self::ListProjects => "`ListProjects` (project, which calls identity)",
            Self::CreateTeam => "`CreateTeam` (identity)",
            Self::CreateInvitation => {
                "`CreateInvitation`, `RevokeInvitation` (invitation, which calls identity)"
            }
        }
    }

    /// Makes the call; returns the number of calls.
    async fn call(self, tenant: &Tenant) -> Result<u32, CallError> {
        let client = &tenant.owner.client;
        let org_id = tenant.org_id.clone();
        let name = chassis::id::new().to_string();
        match self {
            Self::Check => {
                let permission = "org.view".to_owned();
                let request = id::CheckRequest { org_id, permission, ..Default::default() };
                let method = "tenantry.identity.v1.AccessService/Check";
                client.call::<_, id::CheckResponse>(method, request).await?;
            }
            Self::ListProjects => {
                let request = prj::ListProjectsRequest { org_id, ..Default::default() };
                let method = "tenantry.project.v1.ProjectService/ListProjects";
                client.call::<_, prj::ListProjectsResponse>(method, request).await?;
            }
            Self::CreateTeam => {
                let request = id::CreateTeamRequest { org_id, name, ..Default::default() };
                let method = "tenantry.identity.v1.TeamService/CreateTeam";
                client.call::<_, id::CreateTeamResponse>(method, request).await?;
            }
            Self::CreateInvitation => {
                let request = inv::CreateInvitationRequest {
                    org_id: org_id.clone(),
                    email: format!("{name}@example.com"),
                    role: id::OrgRole::Viewer.into(),
                    ..Default::default()
                };
                let method = "tenantry.invitation.v1.InvitationService/CreateInvitation";
                let created: inv::CreateInvitationResponse = client.call(method, request).await?;
                let invitation_id = created.invitation.map(|it| it.id).unwrap_or_default();
                let request =
                    inv::RevokeInvitationRequest { org_id, invitation_id, ..Default::default() };
                let method = "tenantry.invitation.v1.InvitationService/RevokeInvitation";
                client.call::<_, inv::RevokeInvitationResponse>(method, request).await?;
                return Ok(2);
            }
        }
        Ok(1)
    }
}

/// Figures of one operation with a number of replicas.
struct Measured {
    calls_per_second: f64,
    /// Calls that each replica has answered, by its name.
    calls: BTreeMap<String, u64>,
}

/// Measures with three, two and one machine, and prints the table.
pub(crate) async fn run(folder: &Path) -> Result<bool> {
    let groups: Vec<PathBuf> = (1..=MACHINES)
        .map(|machine| control_group::create(folder, &format!("{machine}"), Some(QUOTA_PERCENT)))
        .collect::<Result<_>>()?;
    control_group::enter(&control_group::create(folder, "rest", None)?)?;
    let options = Options { machines: MACHINES, control_groups: groups };
    let mut cluster = Cluster::start(folder, options).await?;
    Probe::wait_until_ready(&mut cluster, Instant::now()).await?;
    let mut all = vec![];
    for number in 0..TENANTS {
        all.push(tenants::create(&cluster, &format!("tenant-{number}")).await?);
    }
    let mut columns = vec![];
    for machines in (1..=MACHINES).rev() {
        use_machines(&mut cluster, machines)?;
        let mut column = vec![];
        for operation in OPERATIONS {
            cluster.run_for(WARM_UP / 2).await?;
            callers(operation, &all, WARM_UP / 2).await;
            let measured = measure(operation, &all, machines).await?;
            let share: Vec<_> =
                measured.calls.iter().map(|(name, count)| format!("{name} {count}")).collect();
            print(&format!(
                "{machines} replicas: {}: {:.1} calls/s; answered by {}",
                operation.name(),
                measured.calls_per_second,
                share.join(", ")
            ));
            column.push(measured.calls_per_second);
        }
        columns.insert(0, column);
    }
    print("| Calls | 1 replica | 2 replicas | 3 replicas | 3 to 1 |");
    print("|---|---|---|---|---|");
    for (index, operation) in OPERATIONS.iter().enumerate() {
        let rates: Vec<_> = columns.iter().map(|it| it[index]).collect();
        print(&format!(
            "| {} | {:.1}/s | {:.1}/s | {:.1}/s | {:.1} |",
            operation.name(),
            rates[0],
            rates[1],
            rates[2],
            rates[2] / rates[0]
        ));
    }
    Ok(true)
}

/// Ends the services of the other machines, and removes their addresses from the names of the services.
fn use_machines(cluster: &mut Cluster, machines: u8) -> Result<()> {
    std::fs::write("/etc/hosts", network::hosts(machines))?;
    for machine in machines + 1..=MACHINES {
        for service in SERVICES {
            cluster.program(&format!("{service}-{machine}"))?.kill();
        }
    }
    Ok(())
}

/// Runs the callers for a time; returns the number of successful calls.
async fn callers(operation: Operation, tenants: &[Tenant], time: Duration) -> u32 {
    let end = Instant::now() + time;
    let mut tasks = JoinSet::new();
    for tenant in tenants.iter().cycle().take(TENANTS * CALLERS) {
        let tenant = tenant.clone();
        tasks.spawn(async move {
            let mut calls = 0;
            while Instant::now() < end {
                // A failed call does not count.
                calls += operation.call(&tenant).await.unwrap_or_default();
            }
            calls
        });
    }
    tasks.join_all().await.into_iter().sum()
}

async fn measure(operation: Operation, tenants: &[Tenant], machines: u8) -> Result<Measured> {
    let before = answered(machines).await?;
    let begun = Instant::now();
    let calls = callers(operation, tenants, DURATION).await;
    let calls_per_second = f64::from(calls) / begun.elapsed().as_secs_f64();
    let mut answered = answered(machines).await?;
    for (name, count) in &mut answered {
        *count -= before.get(name).copied().unwrap_or_default();
    }
    answered.retain(|_, count| *count > 0);
    Ok(Measured { calls_per_second, calls: answered })
}

/// Number of calls that each replica has answered since its start, from its metrics.
async fn answered(machines: u8) -> Result<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    for machine in 1..=machines {
        for service in SERVICES {
            let url = format!("http://{}:8081/metrics", network::address(service, machine));
            let text = reqwest::get(url).await?.text().await?;
            let counts = text.lines().filter(|it| it.starts_with("rpc_server_call_duration"));
            let counts = counts.filter(|it| it.contains("_count{"));
            let count = |line: &str| line.rsplit_once(' ')?.1.parse::<u64>().ok();
            found.insert(format!("{service}-{machine}"), counts.filter_map(count).sum());
        }
    }
    Ok(found)
}
