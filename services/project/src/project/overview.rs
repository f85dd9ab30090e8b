//! The overview of a project: its status, resources, recent deployments and environments (2.1).

pub(crate) mod store;

use api::project as pb;
use chassis::{Db, ProjectGrant, Result, timestamp};

use self::store::EnvironmentUsage;
use crate::{
    environment::{self, Environment, Kind, State},
    server::Resources,
};

/// Number of environments that an overview lists.
const ENVIRONMENTS_MAX: usize = 100;

/// Status of a project: operations in progress first, then errors, then the production environment or,
/// without one, any running environment.
pub(super) fn status(environments: &[Environment]) -> pb::ProjectStatus {
    let any = |states: &[State]| environments.iter().any(|it| states.contains(&it.state));
    let production = environments.iter().find(|it| it.kind == Kind::Production);
    let is_running = match production {
        Some(production) => production.state == State::Running,
        None => any(&[State::Running]),
    };
    if environments.is_empty() {
        pb::ProjectStatus::Empty
    } else if any(&[State::Deploying, State::Cloning, State::Destroying]) {
        pb::ProjectStatus::Deploying
    } else if any(&[State::Error]) {
        pb::ProjectStatus::Degraded
    } else if is_running {
        pb::ProjectStatus::Running
    } else {
        pb::ProjectStatus::Stopped
    }
}

fn allocated_resources(environments: &[Environment]) -> Resources {
    let sum =
        |of: fn(&Environment) -> i32| environments.iter().map(of).fold(0, i32::saturating_add);
    Resources {
        cpu_millis: sum(|it| it.cpu_millis),
        memory_mb: sum(|it| it.memory_mb),
        disk_gb: sum(|it| it.disk_gb),
    }
}

impl From<&EnvironmentUsage> for pb::Usage {
    fn from(it: &EnvironmentUsage) -> Self {
        Self {
            environment_id: it.environment_id.into(),
            cpu_cores: it.cpu_cores,
            memory_bytes: it.memory_bytes,
            disk_bytes: it.disk_bytes,
            measure_time: Some(timestamp(it.reported_at)),
        }
    }
}

/// Sum of the usage of all environments, measured at the time of the oldest report.
fn total_usage(usages: &[EnvironmentUsage]) -> Option<pb::Usage> {
    let oldest = usages.iter().map(|it| it.reported_at).min()?;
    Some(pb::Usage {
        environment_id: String::new(),
        cpu_cores: usages.iter().map(|it| it.cpu_cores).sum(),
        memory_bytes: usages.iter().map(|it| it.memory_bytes).sum(),
        disk_bytes: usages.iter().map(|it| it.disk_bytes).sum(),
        measure_time: Some(timestamp(oldest)),
    })
}

/// Reads the overview of a project.
pub(super) async fn read(db: &Db, grant: &ProjectGrant) -> Result<pb::ProjectOverview> {
    let project = super::store::get(db, grant).await?;
    let environments = environment::store::list_all(db, grant).await?;
    let usages = store::usages(db, grant).await?;
    let recent_deployments = store::recent_deployments(db, grant).await?;
    let running = environments.iter().filter(|it| it.state == State::Running).count();
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    Ok(pb::ProjectOverview {
        project: Some((&project).into()),
        status: status(&environments).into(),
        environment_count: count(environments.len()),
        running_environment_count: count(running),
        deployment_count: store::count_completed_deployments(db, grant).await?,
        allocated: Some(allocated_resources(&environments).into()),
        used: total_usage(&usages),
        usages: usages.iter().map(Into::into).collect(),
        recent_deployments: recent_deployments.iter().map(Into::into).collect(),
        environments: environments.iter().take(ENVIRONMENTS_MAX).map(Into::into).collect(),
    })
}
