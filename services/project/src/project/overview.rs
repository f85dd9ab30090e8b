//! A project on one page (2.1).

pub(crate) mod store;

use api::project as pb;
use chassis::{Db, ProjectGrant, Result, timestamp};

use self::store::Used;
use crate::{
    environment::{self, Environment, Kind, State, wire::resources},
    server::Room,
};

/// So many environments are shown.
const ENVIRONMENTS_MAX: usize = 100;

/// How all environments are together: what is going on first, then what is wrong, then what runs.
pub(super) fn status(environments: &[Environment]) -> pb::ProjectStatus {
    let any = |state: &[State]| environments.iter().any(|it| state.contains(&it.state));
    let production = environments.iter().find(|it| it.kind == Kind::Production);
    let runs = match production {
        Some(it) => it.state == State::Running,
        None => any(&[State::Running]),
    };
    match () {
        () if environments.is_empty() => pb::ProjectStatus::Empty,
        () if any(&[State::Deploying, State::Cloning, State::Destroying]) => {
            pb::ProjectStatus::Deploying
        }
        () if any(&[State::Error]) => pb::ProjectStatus::Degraded,
        () if runs => pb::ProjectStatus::Running,
        () => pb::ProjectStatus::Stopped,
    }
}

fn allocated(environments: &[Environment]) -> Room {
    let sum =
        |of: fn(&Environment) -> i32| environments.iter().map(of).fold(0, i32::saturating_add);
    Room {
        cpu_millis: sum(|it| it.cpu_millis),
        memory_mb: sum(|it| it.memory_mb),
        disk_gb: sum(|it| it.disk_gb),
    }
}

fn usage(it: &Used) -> pb::Usage {
    pb::Usage {
        environment_id: it.environment_id.into(),
        cpu_cores: it.cpu_cores,
        memory_bytes: it.memory_bytes,
        disk_bytes: it.disk_bytes,
        measure_time: Some(timestamp(it.reported_at)),
    }
}

fn sum(all: &[Used]) -> Option<pb::Usage> {
    let oldest = all.iter().map(|it| it.reported_at).min()?;
    Some(pb::Usage {
        environment_id: String::new(),
        cpu_cores: all.iter().map(|it| it.cpu_cores).sum(),
        memory_bytes: all.iter().map(|it| it.memory_bytes).sum(),
        disk_bytes: all.iter().map(|it| it.disk_bytes).sum(),
        measure_time: Some(timestamp(oldest)),
    })
}

/// Reads it all.
pub(super) async fn read(db: &Db, grant: &ProjectGrant) -> Result<pb::ProjectOverview> {
    let project = super::store::get(db, grant).await?;
    let environments = environment::store::of_project(db, grant).await?;
    let used = store::used(db, grant).await?;
    let recent = store::recent(db, grant).await?;
    let small = |it: usize| i32::try_from(it).unwrap_or(i32::MAX);
    Ok(pb::ProjectOverview {
        project: Some((&project).into()),
        status: status(&environments).into(),
        environment_count: small(environments.len()),
        running_environment_count: small(
            environments.iter().filter(|it| it.state == State::Running).count(),
        ),
        deployment_count: store::deployments(db, grant).await?,
        allocated: Some(resources(allocated(&environments))),
        used: sum(&used),
        usages: used.iter().map(usage).collect(),
        recent_deployments: recent.iter().map(Into::into).collect(),
        environments: environments.iter().take(ENVIRONMENTS_MAX).map(Into::into).collect(),
    })
}
