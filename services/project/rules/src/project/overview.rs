//! The overview of a project: its status and resources.

use api::project as pb;
use chassis::timestamp;
use time::OffsetDateTime;

use crate::{
    environment::{Environment, Kind, State},
    resources::Resources,
    types::EnvironmentId,
};

/// Resource usage of an environment, as its server last reported it.
pub struct EnvironmentUsage {
    pub environment_id: EnvironmentId,
    pub cpu_cores: f64,
    pub memory_bytes: i64,
    pub disk_bytes: i64,
    pub reported_at: OffsetDateTime,
}

/// Status of a project: operations in progress first, then errors, then the production environment or,
/// without one, any running environment.
pub fn status(environments: &[Environment]) -> pb::ProjectStatus {
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

/// Sum of the resources of all environments.
pub fn allocated_resources(environments: &[Environment]) -> Resources {
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
pub fn total_usage(usages: &[EnvironmentUsage]) -> Option<pb::Usage> {
    let oldest = usages.iter().map(|it| it.reported_at).min()?;
    Some(pb::Usage {
        environment_id: String::new(),
        cpu_cores: usages.iter().map(|it| it.cpu_cores).sum(),
        memory_bytes: usages.iter().map(|it| it.memory_bytes).sum(),
        disk_bytes: usages.iter().map(|it| it.disk_bytes).sum(),
        measure_time: Some(timestamp(oldest)),
    })
}
