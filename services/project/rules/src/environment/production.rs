//! Protection of PRODUCTION (PE-45): a project can require the role Admin for tasks that decide what runs in
//! production, or that copy its data.

use api::error::Reason;
use chassis::{Code, Refusal};

use super::Kind;
use crate::task;

/// Least project role that may deploy to PRODUCTION (PE-45).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeployRole {
    Developer,
    Admin,
}

chassis::text_column!(DeployRole { Developer = "developer", Admin = "admin" });

/// Right of the caller to deploy to PRODUCTION.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProductionRight {
    /// The caller has the permission `project.production.deploy`.
    Granted,
    /// The permission was not checked, because the operation did not require it.
    NotRequired,
    /// The caller is a push webhook, which has no role.
    Push,
}

/// Stored data on which the right to enqueue a task depends.
pub struct ProductionFacts {
    /// Kind of the task's environment.
    pub kind: Kind,
    pub min_role: DeployRole,
    /// True if the source of the clone is PRODUCTION.
    pub copies_production: bool,
    /// True if variables were changed since the program last started.
    pub is_reconfigured: bool,
}

/// The caller's right is not sufficient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
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

impl ProductionFacts {
    /// True if the project requires the right for a task that changes the program of PRODUCTION, or copies
    /// its data.
    pub fn requires_right(&self, task: task::Kind) -> bool {
        self.min_role == DeployRole::Admin && self.affects_production(task)
    }

    /// Refuses a task that requires the right, unless the caller has it.
    pub fn require_right(&self, task: task::Kind, right: ProductionRight) -> Result<(), Refused> {
        self.min_role.require_right(self.affects_production(task), right)
    }

    /// True if a task changes the program of PRODUCTION, or copies its data.
    fn affects_production(&self, task: task::Kind) -> bool {
        use task::Kind as T;
        let changes_program = match task {
            T::Deploy | T::Rollback | T::Promote | T::Clone | T::UpdateModules => true,
            // A start applies changed variables, and so does a resume if the server was rebooted since the
            // pause.
            T::Start | T::Restart | T::Resume => self.is_reconfigured,
            T::Stop | T::Pause | T::Sync | T::Destroy | T::Provision => false,
        };
        let copies_data = task == T::Clone && self.copies_production;
        copies_data || (self.kind == Kind::Production && changes_program)
    }
}

impl DeployRole {
    /// Refuses an operation that affects PRODUCTION, unless Developers may deploy there or the caller has the
    /// right.
    pub fn require_right(
        self,
        affects_production: bool,
        right: ProductionRight,
    ) -> Result<(), Refused> {
        if !affects_production || self != Self::Admin {
            return Ok(());
        }
        match right {
            ProductionRight::Granted => Ok(()),
            ProductionRight::Push => Err(Refused::Push),
            ProductionRight::NotRequired => Err(Refused::RoleChanged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(kind: Kind) -> ProductionFacts {
        ProductionFacts {
            kind,
            min_role: DeployRole::Admin,
            copies_production: false,
            is_reconfigured: false,
        }
    }

    /// PE-45: a deployment always, a start only with changed variables, a clone from and to production.
    #[test]
    fn a_task_affects_production_if_it_changes_the_program_or_copies_the_data() {
        use task::Kind as T;
        for kind in [T::Deploy, T::Rollback, T::Promote, T::Clone] {
            assert!(facts(Kind::Production).requires_right(kind), "{kind:?}");
            assert!(!facts(Kind::Staging).requires_right(kind), "{kind:?}");
            let by_developers =
                ProductionFacts { min_role: DeployRole::Developer, ..facts(Kind::Production) };
            assert!(!by_developers.requires_right(kind), "{kind:?}");
        }
        for kind in [T::Start, T::Restart, T::Resume] {
            assert!(!facts(Kind::Production).requires_right(kind), "{kind:?}");
            let reconfigured = |kind| ProductionFacts { is_reconfigured: true, ..facts(kind) };
            assert!(reconfigured(Kind::Production).requires_right(kind), "{kind:?}");
            assert!(!reconfigured(Kind::Staging).requires_right(kind), "{kind:?}");
        }
        let copy = ProductionFacts { copies_production: true, ..facts(Kind::Development) };
        assert!(copy.requires_right(T::Clone));
        assert!(!copy.requires_right(T::Deploy));
        for kind in [T::Stop, T::Pause, T::Sync] {
            assert!(!facts(Kind::Production).requires_right(kind), "{kind:?}");
        }
    }
}
