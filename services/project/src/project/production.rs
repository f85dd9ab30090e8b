//! Protection of PRODUCTION (PE-45): who decides what runs there, and who takes out what is there. Every
//! operation asks here, before its transaction for the caller's right, and in it for what is true then.

use api::error::Reason;
use chassis::{Access, Code, Db, ProjectGrant, Refusal, Result, call::Context};

use super::{DeployRole, Project, store};
use crate::{
    environment::{self, Environment, Kind},
    task::{self, Order},
};

/// Right to decide about PRODUCTION.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    /// The caller has `project.production.deploy`.
    Held,
    /// Nobody asked: it was not needed.
    NotAsked,
    /// A push, which proves no role.
    Push,
}

/// Facts about a task that decide whether it concerns PRODUCTION.
pub(crate) struct Facts {
    /// The environment that it copies is PRODUCTION.
    pub(crate) copies_production: bool,
    /// Variables were set since the program last started.
    pub(crate) is_reconfigured: bool,
}

/// The caller's right does not suffice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error(
        "only an Admin of the project deploys to PRODUCTION (production_deploy_min_role), and a push \
         proves no role; deploy or promote by hand"
    )]
    Push,
    #[error("production_deploy_min_role was changed meanwhile; try again")]
    Changed,
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::Push => Code::PermissionDenied,
            Self::Changed => Code::Aborted,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::Push => Reason::MissingPermission,
            Self::Changed => Reason::Conflict,
        }
    }
}

/// Whether a task in an environment of a kind decides what PRODUCTION runs, or copies what is there.
pub(crate) fn is_concerned(kind: Kind, task: task::Kind, facts: &Facts) -> bool {
    use task::Kind as T;
    let changes_what_runs = match task {
        T::Deploy | T::Rollback | T::Promote | T::Clone => true,
        // A resume starts the program anew if the machine was restarted meanwhile.
        T::Start | T::Restart | T::Resume => facts.is_reconfigured,
        T::Stop | T::Pause | T::Sync | T::Destroy | T::Provision => false,
    };
    let copies = task == T::Clone && facts.copies_production;
    copies || (kind == Kind::Production && changes_what_runs)
}

/// Refuses what concerns PRODUCTION, unless the project leaves it to Developers or the right is held.
pub(crate) fn admit(project: &Project, is_concerned: bool, right: Right) -> Result<(), Refused> {
    let needs_admin = project.production_deploy_min_role == DeployRole::Admin;
    match right {
        _ if !is_concerned || !needs_admin => Ok(()),
        Right::Held => Ok(()),
        Right::Push => Err(Refused::Push),
        Right::NotAsked => Err(Refused::Changed),
    }
}

/// A caller on the way to an operation that may concern PRODUCTION.
pub(crate) struct Gate<'a> {
    pub(crate) db: &'a Db,
    pub(crate) access: &'a Access,
    pub(crate) context: &'a Context,
    pub(crate) grant: &'a ProjectGrant,
}

impl Gate<'_> {
    /// The caller's right, or a refusal, if the operation concerns PRODUCTION and the project asks for more
    /// than a Developer.
    pub(crate) async fn pass(&self, is_concerned: bool) -> Result<Right> {
        if !is_concerned {
            return Ok(Right::NotAsked);
        }
        let project = store::get(self.db, self.grant).await?;
        if project.production_deploy_min_role != DeployRole::Admin {
            return Ok(Right::NotAsked);
        }
        self.access.also(self.context, self.grant, "project.production.deploy").await?;
        Ok(Right::Held)
    }

    /// The same for a task.
    pub(crate) async fn pass_task(&self, at: &Environment, order: &Order) -> Result<Right> {
        let mut connection = self.db.pool().acquire().await?;
        let facts = environment::store::production_facts(&mut connection, at, order).await?;
        drop(connection);
        self.pass(is_concerned(at.kind, order.kind, &facts)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEITHER: Facts = Facts { copies_production: false, is_reconfigured: false };

    /// PE-45: what changes the version always, a start only with other variables, a copy on either side.
    #[test]
    fn a_task_concerns_production_if_it_changes_or_copies_what_is_there() {
        use task::Kind as T;
        for kind in [T::Deploy, T::Rollback, T::Promote, T::Clone] {
            assert!(is_concerned(Kind::Production, kind, &NEITHER), "{kind:?}");
            assert!(!is_concerned(Kind::Staging, kind, &NEITHER), "{kind:?}");
        }
        for kind in [T::Start, T::Restart, T::Resume] {
            assert!(!is_concerned(Kind::Production, kind, &NEITHER), "{kind:?}");
            let facts = Facts { is_reconfigured: true, ..NEITHER };
            assert!(is_concerned(Kind::Production, kind, &facts), "{kind:?}");
            assert!(!is_concerned(Kind::Staging, kind, &facts), "{kind:?}");
        }
        let copies = Facts { copies_production: true, ..NEITHER };
        assert!(is_concerned(Kind::Development, T::Clone, &copies));
        assert!(!is_concerned(Kind::Development, T::Deploy, &copies));
        for kind in [T::Stop, T::Pause, T::Sync] {
            assert!(!is_concerned(Kind::Production, kind, &NEITHER), "{kind:?}");
        }
    }
}
