//! Protection of PRODUCTION (PE-45): a project can require the Admin role for tasks that decide what runs
//! in production, or that copy its data. Each operation checks the caller's right before its transaction,
//! and the project's setting again in it.

use api::error::Reason;
use chassis::{Access, Code, Db, ProjectGrant, Refusal, Result, call::Context};

use super::{Environment, Kind, store};
use crate::{
    project::{self, DeployRole, Project},
    task::{self, TaskSpec},
};

/// Right of the caller to deploy to PRODUCTION.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProductionRight {
    /// The caller has the permission `project.production.deploy`.
    Granted,
    /// The permission was not checked, because the operation did not require it.
    NotRequired,
    /// The caller is a push webhook, which has no role.
    Push,
}

/// Data that decides whether a task affects PRODUCTION.
pub(crate) struct ProductionFacts {
    /// The source of a clone is PRODUCTION.
    pub(crate) copies_production: bool,
    /// Variables were changed since the program last started.
    pub(crate) is_reconfigured: bool,
}

/// The caller's right is not sufficient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error(
        "only an Admin of the project deploys to PRODUCTION (production_deploy_min_role), and a push has no \
         role; deploy or promote through the API"
    )]
    Push,
    #[error("production_deploy_min_role was changed by another call; try again")]
    RoleChanged,
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::Push => Code::PermissionDenied,
            Self::RoleChanged => Code::Aborted,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::Push => Reason::MissingPermission,
            Self::RoleChanged => Reason::Conflict,
        }
    }
}

/// True if a task changes what PRODUCTION runs, or copies its data.
pub(crate) fn affects_production(
    environment: Kind,
    task: task::Kind,
    facts: &ProductionFacts,
) -> bool {
    use task::Kind as T;
    let changes_program = match task {
        T::Deploy | T::Rollback | T::Promote | T::Clone => true,
        // A start applies changed variables. So does a resume, if the server was rebooted since the pause.
        T::Start | T::Restart | T::Resume => facts.is_reconfigured,
        T::Stop | T::Pause | T::Sync | T::Destroy | T::Provision => false,
    };
    let copies_data = task == T::Clone && facts.copies_production;
    copies_data || (environment == Kind::Production && changes_program)
}

/// Refuses an operation that affects PRODUCTION, unless the project allows it to Developers or the caller
/// has the right.
pub(crate) fn require_right(
    project: &Project,
    affects_production: bool,
    right: ProductionRight,
) -> Result<(), Refused> {
    if !affects_production || project.production_deploy_min_role != DeployRole::Admin {
        return Ok(());
    }
    match right {
        ProductionRight::Granted => Ok(()),
        ProductionRight::Push => Err(Refused::Push),
        ProductionRight::NotRequired => Err(Refused::RoleChanged),
    }
}

/// Check of the caller's right, before the transaction of an operation.
pub(crate) struct ProductionGate<'a> {
    pub(crate) db: &'a Db,
    pub(crate) access: &'a Access,
    pub(crate) context: &'a Context,
    pub(crate) grant: &'a ProjectGrant,
}

impl ProductionGate<'_> {
    /// Returns the caller's right, or refuses a caller without the right that the operation needs.
    pub(crate) async fn authorize(&self, affects_production: bool) -> Result<ProductionRight> {
        if !affects_production {
            return Ok(ProductionRight::NotRequired);
        }
        let project = project::store::get(self.db, self.grant).await?;
        if project.production_deploy_min_role != DeployRole::Admin {
            return Ok(ProductionRight::NotRequired);
        }
        self.access
            .require_additional(self.context, self.grant, "project.production.deploy")
            .await?;
        Ok(ProductionRight::Granted)
    }

    /// [`Self::authorize`] for a task of an environment.
    pub(crate) async fn authorize_task(
        &self,
        environment: &Environment,
        spec: &TaskSpec,
    ) -> Result<ProductionRight> {
        let mut connection = self.db.pool().acquire().await?;
        let facts = store::production_facts(&mut connection, environment, spec).await?;
        drop(connection);
        self.authorize(affects_production(environment.kind, spec.kind, &facts)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEITHER: ProductionFacts =
        ProductionFacts { copies_production: false, is_reconfigured: false };

    /// PE-45: a deployment always, a start only with changed variables, a clone from and to production.
    #[test]
    fn a_task_affects_production_if_it_changes_the_program_or_copies_the_data() {
        use task::Kind as T;
        for kind in [T::Deploy, T::Rollback, T::Promote, T::Clone] {
            assert!(affects_production(Kind::Production, kind, &NEITHER), "{kind:?}");
            assert!(!affects_production(Kind::Staging, kind, &NEITHER), "{kind:?}");
        }
        for kind in [T::Start, T::Restart, T::Resume] {
            assert!(!affects_production(Kind::Production, kind, &NEITHER), "{kind:?}");
            let facts = ProductionFacts { is_reconfigured: true, ..NEITHER };
            assert!(affects_production(Kind::Production, kind, &facts), "{kind:?}");
            assert!(!affects_production(Kind::Staging, kind, &facts), "{kind:?}");
        }
        let copies = ProductionFacts { copies_production: true, ..NEITHER };
        assert!(affects_production(Kind::Development, T::Clone, &copies));
        assert!(!affects_production(Kind::Development, T::Deploy, &copies));
        for kind in [T::Stop, T::Pause, T::Sync] {
            assert!(!affects_production(Kind::Production, kind, &NEITHER), "{kind:?}");
        }
    }
}
