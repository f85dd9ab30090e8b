//! Deletion of projects (PE-9 to PE-16): the environments are destroyed first, then the project is deleted.

use api::project as pb;
use chassis::{Changed, fold};
use time::OffsetDateTime;

use super::{Project, Refused, State};
use crate::environment::{Environment, State as EnvironmentState};

/// True if the environment must be stopped or destroyed before its project can be deleted (PE-14): a version
/// of it serves, also if its last task failed, or a task is active, or it was never deployed.
pub fn blocks_deletion(environment: &Environment) -> bool {
    environment.serves()
        || matches!(
            environment.state,
            EnvironmentState::Running
                | EnvironmentState::Deploying
                | EnvironmentState::Pending
                | EnvironmentState::Cloning
                | EnvironmentState::Destroying
        )
}

impl Project {
    /// Marks the project as being deleted. It is deleted with its last environment.
    pub fn request_deletion(
        mut self,
        confirm_name: &str,
        etag: &str,
        environments: &[Environment],
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        if !etag.is_empty() && etag != self.etag() {
            return Err(Refused::Stale);
        }
        if !fold::is_exact_name(confirm_name, &self.name) {
            return Err(Refused::WrongName);
        }
        let has_begun = self.state == State::Deleting;
        let is_expected = |it: &&Environment| has_begun && it.state == EnvironmentState::Destroying;
        let active: Vec<_> = environments
            .iter()
            .filter(|it| blocks_deletion(it) && !is_expected(it))
            .map(|it| it.id.into())
            .collect();
        if !active.is_empty() {
            return Err(Refused::ActiveEnvironments(active));
        }
        let before = Some((&self).into());
        self.state = State::Deleting;
        self.updated_at = now;
        let event = pb::ProjectDeletionRequested { before, after: Some((&self).into()) };
        let target = self.event_target();
        Ok(Changed::new(self, &event, target))
    }

    /// Deletes the project, which has no environments any more.
    pub fn delete(self) -> Changed<Self> {
        let event = pb::ProjectDeleted { before: Some((&self).into()) };
        let target = self.event_target();
        Changed::new(self, &event, target)
    }
}
