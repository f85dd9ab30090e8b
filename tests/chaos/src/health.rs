//! Health of every replica: it is ready by its health port, and answers a call that needs the database and
//! identity; and of each service through the gateway.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::future::join_all;
use serde_json::json;
use tenantry::client::Client;
use testkit::load::Tenant;
use tokio::time::timeout;

use crate::{
    cluster::Cluster,
    network::{MACHINES, SERVICES, address},
    tenants::GATEWAY,
};

/// Longest duration of a check of one replica.
const CHECK_MAX: Duration = Duration::from_secs(2);
/// Pause between two checks.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest wait for all replicas; more is a failure of the run.
const HEALTHY_MAX: Duration = Duration::from_secs(120);

/// Person and organization of the checking calls.
pub(crate) struct Probe {
    pub(crate) token: String,
    pub(crate) org_id: String,
    /// Number of machines with services.
    pub(crate) machines: u8,
}

/// A replica, or a service through the gateway.
struct Target {
    name: String,
    service: &'static str,
    url: String,
    /// Address of its health port.
    health: Option<String>,
}

/// Time until a replica was healthy.
pub(crate) struct Healthy {
    pub(crate) name: String,
    pub(crate) after: Duration,
}

impl Probe {
    /// A probe of all machines, with calls of the Owner.
    pub(crate) fn new(tenant: &Tenant) -> Self {
        let token = tenant.owner.token.clone();
        Self { token, org_id: tenant.org_id.clone(), machines: MACHINES }
    }

    /// Waits until the health port of every replica answers that it is ready, at the first start.
    pub(crate) async fn wait_until_ready(cluster: &mut Cluster, begun: Instant) -> Result<()> {
        for machine in 1..=MACHINES {
            for service in SERVICES {
                let address = format!("{}:8081", address(service, machine)).parse()?;
                while health::check(address).await.is_err() {
                    ensure!(begun.elapsed() < HEALTHY_MAX, "{service}-{machine} does not start");
                    cluster.run_for(PAUSE).await?;
                }
            }
        }
        Ok(())
    }

    /// Waits until every replica is healthy. Returns the time for each, since `begun`; those that are not
    /// healthy after two minutes have this time.
    pub(crate) async fn wait(&self, cluster: &mut Cluster, begun: Instant) -> Result<Vec<Healthy>> {
        let authority = cluster.authority.clone();
        let checks = self.targets().into_iter().map(async |target| {
            while begun.elapsed() < HEALTHY_MAX {
                if let Ok(Ok(())) = timeout(CHECK_MAX, self.check(&authority, &target)).await {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
            Healthy { name: target.name, after: begun.elapsed() }
        });
        let all = join_all(checks);
        tokio::pin!(all);
        loop {
            tokio::select! {
                healthy = &mut all => return Ok(healthy),
                () = tokio::time::sleep(Duration::from_millis(250)) => cluster.supervise()?,
            }
        }
    }

    /// Every replica, and each service through the gateway.
    fn targets(&self) -> Vec<Target> {
        let mut targets = vec![];
        for service in SERVICES {
            for machine in 1..=self.machines {
                let address = address(service, machine);
                let url = format!("https://{address}:50051");
                let health = Some(format!("{address}:8081"));
                targets.push(Target { name: format!("{service}-{machine}"), service, url, health });
            }
            let name = format!("{service} through the gateway");
            targets.push(Target { name, service, url: GATEWAY.to_owned(), health: None });
        }
        targets
    }

    /// Checks a target, on a connection of its own.
    async fn check(&self, authority: &str, target: &Target) -> Result<()> {
        if let Some(address) = &target.health {
            health::check(address.parse()?).await?;
        }
        let client = Client::connect(&target.url, Some(authority)).await?;
        let (method, request) = match target.service {
            "identity" => ("identity.v1.TeamService/ListTeams", json!({ "orgId": self.org_id })),
            "project" => {
                ("project.v1.ProjectService/ListProjects", json!({ "orgId": self.org_id }))
            }
            "invitation" => {
                let method = "invitation.v1.InvitationService/ListInvitations";
                (method, json!({ "orgId": self.org_id }))
            }
            _ => ("audit.v1.AuditService/ListEntries", json!({ "orgId": self.org_id })),
        };
        client.with_token(&self.token).call_json(method, request).await?;
        Ok(())
    }
}
