//! The overview of a project: its status, resources, recent deployments and environments.

use api::project as pb;
use chassis::{Db, ProjectGrant, Result};
use project_rules::{
    environment::metric::{day_start, wire::environment_metrics},
    project::overview::{allocated_resources, status, total_usage},
};

use crate::store;

/// Number of environments that an overview lists.
const ENVIRONMENTS_MAX: usize = 100;

/// Reads the overview of a project.
pub(super) async fn read(db: &Db, grant: &ProjectGrant) -> Result<pb::ProjectOverview> {
    let project = store::project::get(db, grant).await?;
    let environments = store::environment::list_all(db, grant).await?;
    let listed = &environments[..environments.len().min(ENVIRONMENTS_MAX)];
    let listed_ids: Vec<_> = listed.iter().map(|it| it.id.0).collect();
    let hours = store::metric::list_hours(db, &listed_ids, day_start(db.now())).await?;
    let usages = store::overview::usages(db, grant).await?;
    let recent_deployments = store::overview::recent_deployments(db, grant).await?;
    let running = environments.iter().filter(|it| it.serves()).count();
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    Ok(pb::ProjectOverview {
        project: Some((&project).into()),
        status: status(&environments).into(),
        environment_count: count(environments.len()),
        running_environment_count: count(running),
        deployment_count: store::overview::count_completed_deployments(db, grant).await?,
        allocated: Some(allocated_resources(&environments).into()),
        used: total_usage(&usages),
        usages: usages.iter().map(Into::into).collect(),
        recent_deployments: recent_deployments.iter().map(Into::into).collect(),
        environments: listed.iter().map(Into::into).collect(),
        hourly_metrics: environment_metrics(&hours),
    })
}
