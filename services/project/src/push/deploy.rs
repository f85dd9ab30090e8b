//! What follows from a push: environments that follow the branch are deployed; one that is busy waits for
//! its turn, and only the newest push counts.

use api::{error::Reason, project as pb};
use chassis::{About, Changed, Error, OrgId, ProjectId, Result, Tx};

use super::{Push, store};
use crate::{
    environment::{
        self, Environment,
        admission::{self, Initiator},
    },
    organization,
    task::{Kind, Order},
};

/// What a push means for an environment.
enum Followed {
    Deployed,
    /// The environment is busy, or its server away: later.
    Waiting,
    /// Nothing follows from it.
    Refused(String),
}

/// Deploys what follows the branch, or remembers it. Nothing follows in an organization that is deleted or
/// blocked.
pub(crate) async fn follow(
    tx: &mut Tx,
    place: (OrgId, ProjectId),
    push: &Push,
) -> Result<pb::ReceivePushResponse> {
    let mut answer = pb::ReceivePushResponse::default();
    if let Err(refused) = organization::store::standing(tx, place.0).await?.admit() {
        answer.ignored = refused.to_string();
        return Ok(answer);
    }
    let (mut ids, mut refused) = (vec![], None);
    for environment in environment::store::lock_following(tx, place, &push.branch).await? {
        let id = environment.id;
        match begin(tx, environment).await? {
            Followed::Deployed => answer.deployments += 1,
            Followed::Waiting => {
                store::remember(tx, place.0, id, &push.commit).await?;
                answer.waiting += 1;
            }
            Followed::Refused(why) => {
                refused = Some(why);
                continue;
            }
        }
        ids.push(id.into());
    }
    if ids.is_empty() {
        let none = || "no environment follows this branch with auto_deploy".to_owned();
        answer.ignored = refused.unwrap_or_else(none);
    }
    let event = pb::PushReceived {
        project_id: place.1.into(),
        branch: push.branch.clone(),
        commit: push.commit.clone(),
        pusher: push.pusher.clone(),
        environment_count: i32::try_from(ids.len()).unwrap_or(i32::MAX),
        environment_ids: ids.into_iter().take(LISTED_MAX).collect(),
    };
    let about = About::object("project", place.1, "").of(place.0).in_project(place.1);
    tx.emit(Changed::new((), &event, about));
    Ok(answer)
}

/// How many environments the event of a push lists.
const LISTED_MAX: usize = 100;

/// Deploys what was pushed while an environment was busy, now that it is not.
pub(crate) async fn catch_up(
    tx: &mut Tx,
    place: (OrgId, ProjectId),
    id: environment::EnvironmentId,
) -> Result<()> {
    if !store::is_remembered(tx, place.0, id).await? {
        return Ok(());
    }
    let environment = environment::store::lock(tx, place, id).await?;
    if matches!(begin(tx, environment).await?, Followed::Deployed) {
        store::remember(tx, place.0, id, "").await?;
    }
    Ok(())
}

async fn begin(tx: &mut Tx, it: Environment) -> Result<Followed> {
    let id = it.id;
    match admission::queue(tx, it, Order::plain(Kind::Deploy), Initiator::Push).await {
        Ok(_) => Ok(Followed::Deployed),
        Err(Error::Refused { reason, message, .. }) => match reason {
            Reason::TaskInProgress | Reason::InvalidState | Reason::ServerUnreachable => {
                tracing::info!(environment = %id, message, "a push waits");
                Ok(Followed::Waiting)
            }
            _ => Ok(Followed::Refused(message)),
        },
        Err(error) => Err(error),
    }
}
