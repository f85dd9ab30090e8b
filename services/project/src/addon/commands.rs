//! Commands on add-ons. Instances are provisioned by every task that starts a program, and by a task of
//! their own after a change.

use api::project as pb;
use chassis::{Changed, Error, OrgId, ProjectGrant, Result, Tx, UserId};
use project_rules::{
    addon::{
        Addon, CatalogEntry, Config, DesiredAddon, Instance, Refused, State, catalog_entry,
        database_name, require_unused_variable,
    },
    environment::{Environment, admission::Initiator},
    task::{Kind, TaskSpec},
    types::{AddonId, EnvironmentId, ProjectRef},
    variable::Vault,
};

use crate::{
    environment::commands::{enqueue_task, require_active_project},
    store,
};

/// Key of the add-on that an Odoo project needs.
const POSTGRESQL: &str = "postgresql";

/// An add-on that a person attaches.
struct NewAddon<'a> {
    project_ref: ProjectRef,
    entry: &'a CatalogEntry,
    config: Config,
    user_id: UserId,
}

/// Attaches an add-on to a project, with an instance in every environment.
pub(super) async fn attach(
    tx: &mut Tx,
    grant: &ProjectGrant,
    entry: &CatalogEntry,
    config: Config,
    vault: &Vault,
) -> Result<Addon> {
    let project_ref = ProjectRef::from(grant);
    let environments = store::environment::lock_of_project(tx, project_ref).await?;
    require_active_project(tx, project_ref).await?;
    let conflicts = store::variable::environments_with(tx, project_ref, &entry.variable).await?;
    require_unused_variable(entry, &conflicts)?;
    let addon = NewAddon { project_ref, entry, config, user_id: grant.account().user_id };
    insert(tx, addon, environments, vault).await
}

/// Attaches PostgreSQL to a project that has got an Odoo version, unless it has PostgreSQL or one of its
/// environments sets the variable itself. Environments are locked before their project: the caller must have
/// locked them.
pub(crate) async fn attach_database(
    tx: &mut Tx,
    project_ref: ProjectRef,
    user_id: UserId,
    vault: &Vault,
) -> Result<()> {
    let entry = catalog_entry(POSTGRESQL)?;
    let addons = store::addon::of_project(tx, project_ref).await?;
    let conflicts = store::variable::environments_with(tx, project_ref, &entry.variable).await?;
    if addons.iter().any(|it| it.addon_key == entry.key) || !conflicts.is_empty() {
        return Ok(());
    }
    let environments = store::environment::lock_of_project(tx, project_ref).await?;
    let config = entry.configure(&Config::new(), &[])?;
    insert(tx, NewAddon { project_ref, entry, config, user_id }, environments, vault).await?;
    Ok(())
}

/// Inserts an add-on, with an instance in every environment of its project, which are locked.
async fn insert(
    tx: &mut Tx,
    addon: NewAddon<'_>,
    environments: Vec<Environment>,
    vault: &Vault,
) -> Result<Addon> {
    let NewAddon { project_ref, entry, config, user_id } = addon;
    let attached = Addon::attach(project_ref, entry, config, user_id, tx.now);
    let addon = store::addon::insert(tx, attached).await?;
    for environment in environments {
        let instance = Instance::new(&addon, environment.id, vault);
        store::addon::upsert_instance(tx, addon.org_id, &instance).await?;
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
    let addon = store::addon::update(tx, changed).await?;
    store::addon::set_instance_states(tx, &addon, State::Waiting).await?;
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
    let addon = store::addon::update(tx, addon.request_detachment(confirm_key)?).await?;
    store::addon::set_instance_states(tx, &addon, State::Removing).await?;
    provision_environments(tx, &addon, grant.account().user_id).await?;
    let detaching = addon.clone();
    if store::addon::count_instances(tx, &addon).await? == 0 {
        store::addon::delete(tx, addon.detach()).await?;
    }
    Ok(detaching)
}

/// Locks an add-on, after the environments and the project.
async fn lock(tx: &mut Tx, grant: &ProjectGrant, id: AddonId) -> Result<Addon> {
    let project_ref = ProjectRef::from(grant);
    store::environment::lock_of_project(tx, project_ref).await?;
    require_active_project(tx, project_ref).await?;
    store::addon::lock(tx, project_ref, id).await
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
    let instances = store::addon::instances_of(tx, environment).await?;
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

/// Returns the instances that the runner of an environment provisions or removes.
pub(crate) async fn desired_addons(
    tx: &mut Tx,
    environment: &Environment,
) -> Result<Vec<DesiredAddon>> {
    let addons = store::addon::of_project(tx, environment.project_ref()).await?;
    let mut desired = vec![];
    for instance in store::addon::instances_of(tx, environment).await? {
        let Some(addon) = addons.iter().find(|it| it.id == instance.addon_id) else { continue };
        desired.push(DesiredAddon {
            addon_key: addon.addon_key.clone(),
            variable: catalog_entry(&addon.addon_key)?.variable.clone(),
            config: addon.config.clone(),
            instance,
        });
    }
    Ok(desired)
}

/// Enqueues a provisioning task in every deployed environment of the project, or marks it as due if the
/// task is refused now. Environments that were never deployed are provisioned with their first deployment.
async fn provision_environments(tx: &mut Tx, addon: &Addon, user_id: UserId) -> Result<()> {
    for environment in store::environment::lock_of_project(tx, addon.project_ref()).await? {
        let id = environment.id;
        if environment.deployment_id.is_none() {
            // Nothing was provisioned, so nothing has to be removed from the server.
            delete_removing_instances(tx, addon.org_id, &environment).await?;
        } else if !enqueue_provisioning(tx, environment, Some(user_id)).await? {
            store::addon::set_provision_due(tx, addon.org_id, id, true).await?;
        }
    }
    Ok(())
}

async fn delete_removing_instances(
    tx: &mut Tx,
    org_id: OrgId,
    environment: &Environment,
) -> Result<()> {
    for instance in store::addon::instances_of(tx, environment).await? {
        if instance.state == State::Removing {
            store::addon::delete_instance(tx, org_id, &instance).await?;
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
    if !store::addon::is_provision_due(tx, project.org_id, id).await? {
        return Ok(());
    }
    let environment = store::environment::lock(tx, project, id).await?;
    if enqueue_provisioning(tx, environment, None).await? {
        store::addon::set_provision_due(tx, project.org_id, id, false).await?;
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
