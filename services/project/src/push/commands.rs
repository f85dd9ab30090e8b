//! Commands on pushes. A push deploys the environments with `auto_deploy` on its branch. It waits for an
//! environment that cannot be deployed now, or that a person has stopped, until its next start; a later push
//! to the same environment replaces it.

use api::{error::Reason, project as pb};
use chassis::{Changed, Error, Result, Tx};
use project_rules::{
    environment::{Environment, State, admission::Initiator},
    push::Push,
    task::{Kind, TaskSpec},
    types::{EnvironmentId, ProjectRef},
};

use crate::{environment::commands::enqueue_task, store};

/// Result of a push, for the git server.
#[derive(Debug, Default)]
pub(crate) struct PushOutcome {
    /// Number of environments that are being deployed.
    pub(crate) deployments: i32,
    /// Number of environments that are deployed later.
    pub(crate) waiting: i32,
    /// Reason for which nothing is deployed; otherwise empty.
    pub(crate) ignored: String,
}

/// Result of a push in one environment.
enum Deployment {
    Enqueued,
    /// The environment is busy, stopped, in a state that does not allow a deployment, or its server is
    /// unreachable.
    Waiting,
    /// The deployment is refused for the reason in the text.
    Refused(String),
}

/// Largest number of environments that the event of a push lists.
const LISTED_ENVIRONMENTS_MAX: usize = 100;

/// Deploys a push. In a deleted or blocked organization it is ignored.
pub(crate) async fn deploy_push(
    tx: &mut Tx,
    project: ProjectRef,
    push: &Push,
) -> Result<PushOutcome> {
    let mut outcome = PushOutcome::default();
    let status = store::organization::status(tx, project.org_id).await?;
    if let Err(refused) = status.require_active() {
        outcome.ignored = refused.to_string();
        return Ok(outcome);
    }
    let mut environment_ids = vec![];
    let mut refusal = None;
    for environment in store::environment::lock_auto_deployed(tx, project, &push.branch).await? {
        let id = environment.id;
        match enqueue_deployment(tx, environment, &push.commit).await? {
            Deployment::Enqueued => outcome.deployments += 1,
            Deployment::Waiting => {
                store::push::set_pending_commit(tx, project.org_id, id, &push.commit).await?;
                outcome.waiting += 1;
            }
            Deployment::Refused(message) => {
                refusal = Some(message);
                continue;
            }
        }
        environment_ids.push(id.into());
    }
    if environment_ids.is_empty() {
        let no_environment = || "no environment of this branch has auto_deploy".to_owned();
        outcome.ignored = refusal.unwrap_or_else(no_environment);
    }
    let event = pb::ProjectPushReceived {
        project_id: project.project_id.into(),
        branch: push.branch.clone(),
        commit: push.commit.clone(),
        pusher: push.pusher.clone(),
        environment_count: i32::try_from(environment_ids.len()).unwrap_or(i32::MAX),
        environment_ids: environment_ids.into_iter().take(LISTED_ENVIRONMENTS_MAX).collect(),
    };
    tx.emit(Changed::new((), &event, project.event_target("")));
    Ok(outcome)
}

/// Deploys the push that waits for an environment, after another task has finished.
pub(crate) async fn deploy_pending_push(
    tx: &mut Tx,
    project: ProjectRef,
    id: EnvironmentId,
) -> Result<()> {
    let commit = store::push::pending_commit(tx, project.org_id, id).await?;
    if commit.is_empty() {
        return Ok(());
    }
    let environment = store::environment::lock(tx, project, id).await?;
    if matches!(enqueue_deployment(tx, environment, &commit).await?, Deployment::Enqueued) {
        store::push::set_pending_commit(tx, project.org_id, id, "").await?;
    }
    Ok(())
}

/// Enqueues the deployment of a pushed commit.
async fn enqueue_deployment(
    tx: &mut Tx,
    environment: Environment,
    commit: &str,
) -> Result<Deployment> {
    let id = environment.id;
    if environment.state == State::Stopped {
        return Ok(Deployment::Waiting);
    }
    let spec = TaskSpec { commit: commit.to_owned(), ..TaskSpec::new(Kind::Deploy) };
    match enqueue_task(tx, environment, spec, Initiator::Push).await {
        Ok(_) => Ok(Deployment::Enqueued),
        Err(Error::Refused { reason, message, .. }) => match reason {
            Reason::TaskInProgress | Reason::InvalidState | Reason::ServerUnreachable => {
                tracing::info!(environment = %id, message, "the deployment of a push is deferred");
                Ok(Deployment::Waiting)
            }
            _ => Ok(Deployment::Refused(message)),
        },
        Err(error) => Err(error),
    }
}
