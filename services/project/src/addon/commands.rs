//! Commands on add-ons. Instances are provisioned by every task that starts a program, and by a task of
//! their own after a change.

use api::project as pb;
use chassis::{Changed, Error, OrgId, ProjectGrant, Result, Tx, UserId};
use data_encoding::BASE64URL_NOPAD;

use super::{
    Addon, AddonId, CatalogEntry, Config, Instance, Refused, State, catalog_entry, database_name,
    store,
};
use crate::{
    environment::{
        self, Environment, EnvironmentId,
        commands::{Initiator, enqueue_task, require_active_project},
    },
    project::ProjectRef,
    task::{Kind, Outcome, Task, TaskSpec},
    variable::Vault,
};

/// Attaches an add-on to a project, with an instance in every environment.
pub(super) async fn attach(
    tx: &mut Tx,
    grant: &ProjectGrant,
    entry: &CatalogEntry,
    config: Config,
    vault: &Vault,
) -> Result<Addon> {
    let project_ref = ProjectRef::from(grant);
    let user_id = grant.account().user_id;
    let environments = environment::store::lock_of_project(tx, project_ref).await?;
    require_active_project(tx, project_ref).await?;
    let attached = Addon::attach(project_ref, entry, config, user_id, tx.now);
    let addon = store::insert(tx, attached).await?;
    for environment in environments {
        add_instance(tx, &addon, environment.id, vault).await?;
    }
    provision_environments(tx, &addon, user_id).await?;
    Ok(addon)
}

/// Changes the configuration of an add-on in every environment.
pub(super) async fn update(
    tx: &mut Tx,
    grant: &ProjectGrant,
    id: AddonId,
    settings: &[pb::AddonSetting],
    etag: &str,
) -> Result<Addon> {
    let addon = lock(tx, grant, id).await?;
    let config = catalog_entry(&addon.addon_key)?.configure(&addon.config, settings)?;
    let unchanged = addon.clone();
    let Some(changed) = addon.configure(config, etag)? else { return Ok(unchanged) };
    let addon = store::update(tx, changed).await?;
    store::set_instance_states(tx, &addon, State::Waiting).await?;
    provision_environments(tx, &addon, grant.account().user_id).await?;
    Ok(addon)
}

/// Begins to detach an add-on. It is deleted when every instance is removed: at once, if no environment was
/// deployed.
pub(super) async fn detach(
    tx: &mut Tx,
    grant: &ProjectGrant,
    id: AddonId,
    confirm_key: &str,
) -> Result<Addon> {
    let addon = lock(tx, grant, id).await?;
    let addon = store::update(tx, addon.detach(confirm_key)?).await?;
    store::set_instance_states(tx, &addon, State::Removing).await?;
    provision_environments(tx, &addon, grant.account().user_id).await?;
    let detaching = addon.clone();
    if store::count_instances(tx, &addon).await? == 0 {
        store::delete(tx, addon.detached()).await?;
    }
    Ok(detaching)
}

/// Locks an add-on, after the environments and the project.
async fn lock(tx: &mut Tx, grant: &ProjectGrant, id: AddonId) -> Result<Addon> {
    let project_ref = ProjectRef::from(grant);
    environment::store::lock_of_project(tx, project_ref).await?;
    require_active_project(tx, project_ref).await?;
    store::lock(tx, project_ref, id).await
}

/// Variable of a program with the connection URL of an add-on.
pub(super) struct Connection {
    pub(super) variable: String,
    pub(super) url: String,
}

/// Returns the connection URL of a provisioned instance, with its password. This is an event.
pub(super) async fn reveal_connection(
    tx: &mut Tx,
    addon: &Addon,
    environment: &Environment,
    database_address: &str,
    vault: &Vault,
) -> Result<Connection> {
    let instances = store::instances_of(tx, environment).await?;
    let instance = instances.into_iter().find(|it| it.addon_id == addon.id);
    let instance = instance.ok_or(Error::NotFound("instance"))?;
    if instance.state != State::Ready || database_address.is_empty() {
        return Err(Refused::NotProvisioned.into());
    }
    let event = pb::AddonConnectionRevealed {
        addon_id: addon.id.into(),
        environment_id: environment.id.into(),
        addon_key: addon.addon_key.clone(),
    };
    tx.emit(Changed::new((), &event, addon.event_target()));
    let name = database_name(environment.id);
    let password = vault.unseal(addon.org_id, &name, &instance.sealed)?;
    Ok(Connection {
        variable: catalog_entry(&addon.addon_key)?.variable.clone(),
        url: format!("postgres://{name}:{password}@{database_address}/{name}"),
    })
}

async fn add_instance(
    tx: &mut Tx,
    addon: &Addon,
    environment_id: EnvironmentId,
    vault: &Vault,
) -> Result<()> {
    let password = BASE64URL_NOPAD.encode(&chassis::key::random());
    let instance = Instance {
        addon_id: addon.id,
        environment_id,
        state: State::Waiting,
        error_message: String::new(),
        sealed: vault.seal(addon.org_id, &database_name(environment_id), &password),
    };
    store::upsert_instance(tx, addon.org_id, &instance).await
}

/// Adds an instance of every add-on of the project to a new environment.
pub(crate) async fn add_instances(
    tx: &mut Tx,
    environment: &Environment,
    vault: &Vault,
) -> Result<()> {
    for addon in store::of_project(tx, environment.project_ref()).await? {
        if !addon.removing {
            add_instance(tx, &addon, environment.id, vault).await?;
        }
    }
    Ok(())
}

/// An instance that a runner provisions or removes, with the configuration of its add-on.
pub(crate) struct DesiredAddon {
    pub(crate) addon_key: String,
    pub(crate) variable: String,
    pub(crate) config: Config,
    pub(crate) instance: Instance,
}

/// Returns the instances that the runner of an environment provisions or removes.
pub(crate) async fn desired_addons(
    tx: &mut Tx,
    environment: &Environment,
) -> Result<Vec<DesiredAddon>> {
    let addons = store::of_project(tx, environment.project_ref()).await?;
    let mut desired = vec![];
    for instance in store::instances_of(tx, environment).await? {
        let Some(addon) = addons.iter().find(|it| it.id == instance.addon_id) else { continue };
        desired.push(DesiredAddon {
            addon_key: addon.addon_key.clone(),
            variable: catalog_entry(&addon.addon_key)?.variable.clone(),
            config: addon.config.0.clone(),
            instance,
        });
    }
    Ok(desired)
}

/// Applies the end of a task to the instances of its environment.
pub(crate) async fn apply_task_outcome(
    tx: &mut Tx,
    environment: &Environment,
    task: &Task,
    outcome: &Outcome,
) -> Result<()> {
    let provisions = task.kind.is_deployment()
        || matches!(task.kind, Kind::Start | Kind::Restart | Kind::Clone | Kind::Provision);
    if !provisions {
        return Ok(());
    }
    for mut instance in store::instances_of(tx, environment).await? {
        match (outcome, instance.state) {
            (Outcome::Completed(_), State::Removing) => {
                store::delete_instance(tx, environment.org_id, &instance).await?;
                delete_if_unused(tx, environment.project_ref(), instance.addon_id).await?;
            }
            (Outcome::Completed(_), _) => {
                instance.state = State::Ready;
                instance.error_message = String::new();
                store::upsert_instance(tx, environment.org_id, &instance).await?;
            }
            (Outcome::Failed { error }, State::Waiting) if task.kind == Kind::Provision => {
                instance.state = State::Error;
                instance.error_message.clone_from(error);
                store::upsert_instance(tx, environment.org_id, &instance).await?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Deletes an add-on that is being detached and has no instances left.
async fn delete_if_unused(tx: &mut Tx, project: ProjectRef, id: AddonId) -> Result<()> {
    let addon = store::lock(tx, project, id).await?;
    if addon.removing && store::count_instances(tx, &addon).await? == 0 {
        store::delete(tx, addon.detached()).await?;
    }
    Ok(())
}

/// Enqueues a provisioning task in every deployed environment of the project, or marks it as due if the
/// task is refused now. Environments that were never deployed are provisioned with their first deployment.
async fn provision_environments(tx: &mut Tx, addon: &Addon, user_id: UserId) -> Result<()> {
    for environment in environment::store::lock_of_project(tx, addon.project_ref()).await? {
        let id = environment.id;
        if environment.deployment_id.is_none() {
            // Nothing was provisioned, so nothing has to be removed from the server.
            delete_removing_instances(tx, addon.org_id, &environment).await?;
        } else if !enqueue_provisioning(tx, environment, Some(user_id)).await? {
            store::set_provision_due(tx, addon.org_id, id, true).await?;
        }
    }
    Ok(())
}

async fn delete_removing_instances(
    tx: &mut Tx,
    org_id: OrgId,
    environment: &Environment,
) -> Result<()> {
    for instance in store::instances_of(tx, environment).await? {
        if instance.state == State::Removing {
            store::delete_instance(tx, org_id, &instance).await?;
        }
    }
    Ok(())
}

/// Enqueues the provisioning task of an environment that is due, after another task has finished.
pub(crate) async fn provision_if_due(
    tx: &mut Tx,
    project: ProjectRef,
    id: EnvironmentId,
) -> Result<()> {
    if !store::is_provision_due(tx, project.org_id, id).await? {
        return Ok(());
    }
    let environment = environment::store::lock(tx, project, id).await?;
    if enqueue_provisioning(tx, environment, None).await? {
        store::set_provision_due(tx, project.org_id, id, false).await?;
    }
    Ok(())
}

/// Enqueues a provisioning task. `false`: the task is refused now.
async fn enqueue_provisioning(
    tx: &mut Tx,
    environment: Environment,
    user_id: Option<UserId>,
) -> Result<bool> {
    let spec = TaskSpec::new(Kind::Provision);
    match enqueue_task(tx, environment, spec, Initiator::System { user_id }).await {
        Ok(_) => Ok(true),
        Err(Error::Refused { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
