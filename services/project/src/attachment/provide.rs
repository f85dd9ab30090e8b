//! How environments get and lose extra services: with every task that starts their program, and with one of
//! its own when something changes.

use api::project as pb;
use chassis::{Error, OrgId, ProjectId, Result, Tx, UserId};
use data_encoding::BASE64URL_NOPAD;

use super::{Attachment, Instance, State, entry, name, store};
use crate::{
    environment::{
        self, Environment, EnvironmentId,
        admission::{self, Initiator},
    },
    task::{Kind, Order, Outcome, Task},
    variable::Vault,
};

/// An environment is to have a service.
pub(crate) async fn give(
    tx: &mut Tx,
    it: &Attachment,
    environment_id: EnvironmentId,
    vault: &Vault,
) -> Result<()> {
    let password = BASE64URL_NOPAD.encode(&chassis::key::random());
    let instance = Instance {
        attachment_id: it.id,
        environment_id,
        state: State::Waiting,
        error_message: String::new(),
        sealed: vault.seal(it.org_id, &name(environment_id), &password),
    };
    store::put(tx, it.org_id, &instance).await
}

/// A new environment is to have every service of its project.
pub(crate) async fn give_all(tx: &mut Tx, it: &Environment, vault: &Vault) -> Result<()> {
    for attachment in store::of_project(tx, (it.org_id, it.project_id)).await? {
        if !attachment.removing {
            give(tx, &attachment, it.id, vault).await?;
        }
    }
    Ok(())
}

/// What a runner is to provide, or to remove.
pub(crate) async fn provisions(
    tx: &mut Tx,
    it: &Environment,
    vault: &Vault,
) -> Result<Vec<pb::Provision>> {
    let attachments = store::of_project(tx, (it.org_id, it.project_id)).await?;
    let mut all = vec![];
    for instance in store::of_environment(tx, it).await? {
        let attachment = attachments.iter().find(|it| it.id == instance.attachment_id);
        let Some(attachment) = attachment else { continue };
        let name = name(it.id);
        let setting = |(name, value): (&String, &i64)| pb::Variable {
            name: name.clone(),
            value: value.to_string(),
        };
        all.push(pb::Provision {
            service_key: attachment.service_key.clone(),
            password: vault.unseal(it.org_id, &name, &instance.sealed)?,
            variable: entry(&attachment.service_key)?.variable.clone(),
            settings: attachment.config.iter().map(setting).collect(),
            remove: instance.state == State::Removing,
            name,
        });
    }
    Ok(all)
}

/// What came of a task for the services of its environment.
pub(crate) async fn ended(
    tx: &mut Tx,
    it: &Environment,
    task: &Task,
    outcome: &Outcome,
) -> Result<()> {
    let provides = task.kind.is_deployment()
        || matches!(task.kind, Kind::Start | Kind::Restart | Kind::Clone | Kind::Provision);
    if !provides {
        return Ok(());
    }
    for mut instance in store::of_environment(tx, it).await? {
        match (outcome, instance.state) {
            (Outcome::Completed { .. }, State::Removing) => {
                store::drop_instance(tx, it.org_id, &instance).await?;
                sweep(tx, (it.org_id, it.project_id), &instance).await?;
            }
            (Outcome::Completed { .. }, _) => {
                (instance.state, instance.error_message) = (State::Ready, String::new());
                store::put(tx, it.org_id, &instance).await?;
            }
            (Outcome::Failed { error }, State::Waiting) if task.kind == Kind::Provision => {
                (instance.state, instance.error_message) = (State::Error, error.clone());
                store::put(tx, it.org_id, &instance).await?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// A service that no environment has any more is gone.
async fn sweep(tx: &mut Tx, place: (OrgId, ProjectId), instance: &Instance) -> Result<()> {
    let attachment = store::lock(tx, place, instance.attachment_id).await?;
    if attachment.removing && store::count(tx, &attachment).await? == 0 {
        store::delete(tx, attachment.gone()).await?;
    }
    Ok(())
}

/// Every environment of a project that was deployed gets, or loses, what changed.
pub(crate) async fn reconcile(tx: &mut Tx, it: &Attachment, by: UserId) -> Result<()> {
    for environment in environment::store::all(tx, (it.org_id, it.project_id)).await? {
        if environment.deployment_id.is_none() {
            // Nothing was provided yet, so nothing has to be removed.
            let none = store::of_environment(tx, &environment).await?;
            for instance in none.iter().filter(|it| it.state == State::Removing) {
                store::drop_instance(tx, it.org_id, instance).await?;
            }
        } else if !begin(tx, environment.clone(), Some(by)).await? {
            store::due(tx, it.org_id, environment.id, true).await?;
        }
    }
    Ok(())
}

/// What was to change while an environment was busy, now that it is not.
pub(crate) async fn catch_up(
    tx: &mut Tx,
    place: (OrgId, ProjectId),
    id: EnvironmentId,
) -> Result<()> {
    if !store::is_due(tx, place.0, id).await? {
        return Ok(());
    }
    let environment = environment::store::lock(tx, place, id).await?;
    if begin(tx, environment, None).await? {
        store::due(tx, place.0, id, false).await?;
    }
    Ok(())
}

async fn begin(tx: &mut Tx, it: Environment, by: Option<UserId>) -> Result<bool> {
    let by = Initiator::System { user_id: by };
    match admission::queue(tx, it, Order::plain(Kind::Provision), by).await {
        Ok(_) => Ok(true),
        Err(Error::Refused { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
