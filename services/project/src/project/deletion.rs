//! The danger zone (PE-9 to PE-16): a project goes for good, its environments first.

use api::project as pb;
use chassis::{Changed, OrgId, ProjectGrant, ProjectId, Result, Tx};
use time::OffsetDateTime;

use super::{Project, Refused, State, production::Right, store};
use crate::{
    environment::{
        self, Environment, State as Life,
        admission::{self, Initiator},
    },
    task::{Kind, Order},
};

/// Whether an environment must be stopped or destroyed by hand first (PE-14).
pub(super) fn blocks(it: &Environment) -> bool {
    matches!(
        it.state,
        Life::Running | Life::Deploying | Life::Pending | Life::Cloning | Life::Destroying
    )
}

impl Project {
    /// It goes as soon as its environments are gone.
    pub(super) fn delete(
        mut self,
        confirm_name: &str,
        etag: &str,
        environments: &[Environment],
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        if !etag.is_empty() && etag != self.etag() {
            return Err(Refused::Stale);
        }
        if confirm_name != self.name {
            return Err(Refused::WrongName);
        }
        let again = self.state == State::Deleting;
        let on_its_way = |it: &&Environment| again && it.state == Life::Destroying;
        let active: Vec<_> = environments
            .iter()
            .filter(|it| blocks(it) && !on_its_way(it))
            .map(|it| it.id.into())
            .collect();
        if !active.is_empty() {
            return Err(Refused::ActiveEnvironments(active));
        }
        let before = Some((&self).into());
        (self.state, self.updated_at) = (State::Deleting, now);
        let event = pb::ProjectDeletionRequested { before, after: Some((&self).into()) };
        let about = self.about();
        Ok(Changed::new(self, &event, about))
    }

    /// It is gone.
    fn gone(self) -> Changed<Self> {
        let event = pb::ProjectDeleted { before: Some((&self).into()) };
        let about = self.about();
        Changed::new(self, &event, about)
    }
}

/// Begins the deletion: queues the destruction of every environment, or ends it at once if there is none.
/// Called again, it goes on where it stood.
pub(super) async fn begin(
    tx: &mut Tx,
    grant: &ProjectGrant,
    it: &pb::DeleteProjectRequest,
) -> Result<pb::DeleteProjectResponse> {
    let place = (grant.org_id(), grant.project_id());
    // Environments are locked before their project, here as at the end of a task.
    let environments = environment::store::all(tx, place).await?;
    let project = store::lock(tx, place).await?;
    if usize::try_from(project.environment_count).ok() != Some(environments.len()) {
        return Err(chassis::Error::conflict("an environment came or went meanwhile; try again"));
    }
    let again = project.state == State::Deleting;
    let deleting = project.delete(&it.confirm_name, &it.etag, &environments, tx.now)?;
    let project =
        if again { deleting.state().clone() } else { store::update(tx, deleting).await? };
    let mut destroying = 0;
    for environment in environments {
        destroying += 1;
        if environment.state == Life::Destroying {
            continue;
        }
        let by = Initiator::person(grant, Right::NotAsked);
        admission::queue(tx, environment, Order::plain(Kind::Destroy), by).await?;
    }
    go_on(tx, place).await?;
    let project = Some((&project).into());
    Ok(pb::DeleteProjectResponse { project, destroying_environments: destroying })
}

/// Ends the deletion of a project whose last environment is gone; otherwise does nothing.
pub(crate) async fn go_on(tx: &mut Tx, place: (OrgId, ProjectId)) -> Result<()> {
    let project = store::lock(tx, place).await?;
    if project.state != State::Deleting || project.environment_count > 0 {
        return Ok(());
    }
    store::delete(tx, project.gone()).await
}
