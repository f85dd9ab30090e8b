//! Admission of tasks: the one place through which a task comes to be, whoever or whatever starts it.

use chassis::{OrgId, ProjectGrant, ProjectId, Result, Tx, UserId};

use super::{Environment, Refused, machine::Operation, store};
use crate::{
    organization,
    project::{
        self, Project,
        production::{self, Right},
    },
    server,
    task::{self, Cause, Order, Task},
};

/// Whoever starts a task.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Initiator {
    /// Identity has decided that this person may, also in view of the organization's standing.
    Person { user_id: UserId, production: Right },
    /// A signed push.
    Push,
    /// The suite: in consequence of what this person did and may, or by itself.
    System { user_id: Option<UserId> },
    /// The platform, which knows the standing of the organization better than the events that are here.
    Platform,
}

impl Initiator {
    /// The person of a grant.
    pub(crate) fn person(grant: &ProjectGrant, production: Right) -> Self {
        Self::Person { user_id: grant.account().user_id, production }
    }

    fn trigger(self) -> (UserId, Cause) {
        let nobody = UserId(uuid::Uuid::nil());
        match self {
            Self::Person { user_id, .. } => (user_id, Cause::User),
            Self::Push => (nobody, Cause::Push),
            Self::System { user_id } => (user_id.unwrap_or(nobody), Cause::System),
            Self::Platform => (nobody, Cause::System),
        }
    }
}

/// Queues a task in a locked environment.
pub(crate) async fn queue(
    tx: &mut Tx,
    environment: Environment,
    order: Order,
    by: Initiator,
) -> Result<(Environment, Task)> {
    let active = task::store::active(tx, &environment).await?;
    environment.admit(Operation::of(order.kind), active.as_ref())?;
    check(tx, &environment, &order, by).await?;
    let begun = environment.begin(order, by.trigger(), active.as_ref(), tx.now)?;
    store::begin(tx, begun).await
}

/// Queues the task that fills a new environment with a copy.
pub(crate) async fn fill(
    tx: &mut Tx,
    target: Environment,
    order: Order,
    by: Initiator,
) -> Result<(Environment, Task)> {
    check(tx, &target, &order, by).await?;
    store::begin(tx, target.fill(order, by.trigger(), tx.now)).await
}

/// Queues the stop of whatever a locked environment runs, at the end of its organization. `false`: nothing
/// can run.
pub(crate) async fn shut(tx: &mut Tx, environment: Environment, by: UserId) -> Result<bool> {
    let Some(stopping) = environment.shut(by, tx.now) else { return Ok(false) };
    store::begin(tx, stopping).await.map(|_| true)
}

/// Refuses a change of a locked environment in a project that is being deleted, or one that concerns
/// PRODUCTION without the right to it.
pub(crate) async fn change(
    tx: &mut Tx,
    environment: &Environment,
    concerns_production: bool,
    right: Right,
) -> Result<()> {
    let project = active_project(tx, (environment.org_id, environment.project_id)).await?;
    Ok(production::admit(&project, concerns_production, right)?)
}

/// A project, which stays as it is as long as the transaction goes on; refuses one that is being deleted.
pub(crate) async fn active_project(tx: &mut Tx, place: (OrgId, ProjectId)) -> Result<Project> {
    let project = project::store::load(tx, place).await?;
    match project.state {
        project::State::Active => Ok(project),
        project::State::Deleting => Err(Refused::ProjectDeleting.into()),
    }
}

/// Everything about a new task that its environment's state does not say.
async fn check(tx: &mut Tx, environment: &Environment, order: &Order, by: Initiator) -> Result<()> {
    let place = (environment.org_id, environment.project_id);
    let project = if order.kind.is_ending() {
        project::store::load(tx, place).await?
    } else {
        active_project(tx, place).await?
    };
    let right = match by {
        Initiator::Person { production, .. } => Some(production),
        Initiator::Push => Some(Right::Push),
        Initiator::System { .. } | Initiator::Platform => None,
    };
    if let Some(right) = right {
        let facts = store::production_facts(tx.conn(), environment, order).await?;
        let is_concerned = production::is_concerned(environment.kind, order.kind, &facts);
        production::admit(&project, is_concerned, right)?;
    }
    let standing = organization::store::standing(tx, place.0).await?;
    match by {
        Initiator::Person { .. } | Initiator::System { user_id: Some(_) } => {}
        Initiator::Platform if standing != organization::Standing::Deleted => return Ok(()),
        _ => standing.admit_task(order.kind)?,
    }
    server::store::require_reachable(tx, environment.server_id).await
}
