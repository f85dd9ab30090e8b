//! Who deploys to production (PE-45).

use chassis::{Access, Db, ProjectGrant, Result, call::Context};

use super::{DeployRole, Project, store};
use crate::environment::{Environment, Kind};

/// Refuses whoever may deploy, but not to production, if that is where it goes (PE-45).
pub(crate) async fn may_deploy(
    db: &Db,
    access: &Access,
    who: (&Context, &ProjectGrant),
    environment: &Environment,
) -> Result<()> {
    if environment.kind != Kind::Production {
        return Ok(());
    }
    let project = store::get(db, who.1).await?;
    may_deploy_to(access, who, &project, environment.kind).await
}

/// Refuses whoever may deploy, but not to an environment of this kind (PE-45).
pub(crate) async fn may_deploy_to(
    access: &Access,
    (context, grant): (&Context, &ProjectGrant),
    project: &Project,
    kind: Kind,
) -> Result<()> {
    if (kind, project.production_deploy_min_role) == (Kind::Production, DeployRole::Admin) {
        access.also(context, grant, "project.production.deploy").await?;
    }
    Ok(())
}
