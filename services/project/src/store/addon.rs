//! SQL statements about add-ons.

use chassis::{Changed, Db, Error, OnConstraint, OrgId, ProjectGrant, Result, Tx};
use project_rules::{
    addon::{Addon, Config, Instance, Refused, State},
    environment::Environment,
    types::{AddonId, EnvironmentId, ProjectRef},
};
use sqlx::{query, query_as, query_scalar, types::Json};

/// Selects rows of add-ons: the rest of the statement after `from addon`, and its arguments.
macro_rules! addons {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        query_as!(
            Addon,
            r#"select id, org_id, project_id, addon_key, config as "config: ConfigColumn", removing,
                      creator_id, created_at, version
               from addon "# + $rest
            $(, $argument)*
        )
    };
}

/// Stores a new add-on and its event.
pub(crate) async fn insert(tx: &mut Tx, attached: Changed<Addon>) -> Result<Addon> {
    let addon = attached.state();
    query!(
        "insert into addon (id, org_id, project_id, addon_key, config, creator_id, created_at)
         values ($1, $2, $3, $4, $5, $6, $7)",
        addon.id as _,
        addon.org_id as _,
        addon.project_id as _,
        addon.addon_key,
        Json(&addon.config) as _,
        addon.creator_id as _,
        addon.created_at,
    )
    .execute(tx.conn())
    .await
    .on_constraint("addon_project_key", Refused::Attached)?;
    Ok(tx.emit(attached))
}

/// Stores the new state of an add-on and its event.
pub(crate) async fn update(tx: &mut Tx, changed: Changed<Addon>) -> Result<Addon> {
    let addon = changed.state();
    query!(
        "update addon set config = $3, removing = $4, version = version + 1
         where org_id = $1 and id = $2",
        addon.org_id as _,
        addon.id as _,
        Json(&addon.config) as _,
        addon.removing,
    )
    .execute(tx.conn())
    .await?;
    let mut addon = tx.emit(changed);
    addon.version += 1;
    Ok(addon)
}

/// Deletes an add-on without instances, and stores its event.
pub(crate) async fn delete(tx: &mut Tx, deleted: Changed<Addon>) -> Result<()> {
    let addon = deleted.state();
    query!("delete from addon where org_id = $1 and id = $2", addon.org_id as _, addon.id as _)
        .execute(tx.conn())
        .await?;
    tx.emit(deleted);
    Ok(())
}

/// Locks an add-on against changes.
pub(crate) async fn lock(tx: &mut Tx, project: ProjectRef, id: AddonId) -> Result<Addon> {
    let addon = addons!(
        "where org_id = $1 and project_id = $2 and id = $3 for update",
        project.org_id.0,
        project.project_id.0,
        id.0
    );
    addon.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(AddonId::NOUN))
}

/// Returns an add-on.
pub(crate) async fn get(db: &Db, grant: &ProjectGrant, id: AddonId) -> Result<Addon> {
    let addon = addons!(
        "where org_id = $1 and project_id = $2 and id = $3",
        grant.org_id().0,
        grant.project_id().0,
        id.0
    );
    addon.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(AddonId::NOUN))
}

/// Returns the add-ons of a project. Their number is bounded by the size of the catalog.
pub(crate) async fn list(db: &Db, grant: &ProjectGrant) -> Result<Vec<Addon>> {
    let addons = addons!(
        "where org_id = $1 and project_id = $2 order by id",
        grant.org_id().0,
        grant.project_id().0
    );
    Ok(addons.fetch_all(db.pool()).await?)
}

/// Returns the add-ons of a project in a transaction.
pub(crate) async fn of_project(tx: &mut Tx, project: ProjectRef) -> Result<Vec<Addon>> {
    let addons = addons!(
        "where org_id = $1 and project_id = $2 order by id",
        project.org_id.0,
        project.project_id.0
    );
    Ok(addons.fetch_all(tx.conn()).await?)
}

/// Returns the instances in all environments of a project.
pub(crate) async fn list_instances(db: &Db, grant: &ProjectGrant) -> Result<Vec<Instance>> {
    let instances = query_as!(
        Instance,
        "select addon_id, environment_id, state, error_message, sealed from addon_instance
         where org_id = $1 and addon_id in
             (select id from addon where org_id = $1 and project_id = $2)
         order by environment_id",
        grant.org_id().0,
        grant.project_id().0
    );
    Ok(instances.fetch_all(db.pool()).await?)
}

/// Returns the instances in an environment.
pub(crate) async fn instances_of(tx: &mut Tx, environment: &Environment) -> Result<Vec<Instance>> {
    let instances = query_as!(
        Instance,
        "select addon_id, environment_id, state, error_message, sealed from addon_instance
         where org_id = $1 and environment_id = $2 order by addon_id",
        environment.org_id.0,
        environment.id.0
    );
    Ok(instances.fetch_all(tx.conn()).await?)
}

/// Stores an instance. The password of an existing one is not changed.
pub(crate) async fn upsert_instance(tx: &mut Tx, org_id: OrgId, instance: &Instance) -> Result<()> {
    query!(
        "insert into addon_instance (org_id, addon_id, environment_id, state, error_message, sealed)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (addon_id, environment_id) do update set
             state = excluded.state, error_message = excluded.error_message",
        org_id as _,
        instance.addon_id as _,
        instance.environment_id as _,
        instance.state as _,
        instance.error_message,
        instance.sealed,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Sets the state of all instances of an add-on.
pub(crate) async fn set_instance_states(tx: &mut Tx, addon: &Addon, state: State) -> Result<()> {
    query!(
        "update addon_instance set state = $3, error_message = '' where org_id = $1 and addon_id = $2",
        addon.org_id as _,
        addon.id as _,
        state as _,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Deletes an instance.
pub(crate) async fn delete_instance(tx: &mut Tx, org_id: OrgId, instance: &Instance) -> Result<()> {
    query!(
        "delete from addon_instance where org_id = $1 and addon_id = $2 and environment_id = $3",
        org_id as _,
        instance.addon_id as _,
        instance.environment_id as _,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Counts the instances of an add-on.
pub(crate) async fn count_instances(tx: &mut Tx, addon: &Addon) -> Result<i64> {
    let count = query_scalar!(
        r#"select count(*) as "count!" from addon_instance where org_id = $1 and addon_id = $2"#,
        addon.org_id.0,
        addon.id.0
    );
    Ok(count.fetch_one(tx.conn()).await?)
}

/// Sets whether a provisioning task is due as soon as no other task of the environment is active.
pub(crate) async fn set_provision_due(
    tx: &mut Tx,
    org_id: OrgId,
    id: EnvironmentId,
    due: bool,
) -> Result<()> {
    query!(
        "update environment set provision_due = $3 where org_id = $1 and id = $2",
        org_id.0,
        id.0,
        due
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// True if a provisioning task of the environment is due.
pub(crate) async fn is_provision_due(
    tx: &mut Tx,
    org_id: OrgId,
    id: EnvironmentId,
) -> Result<bool> {
    let due = query_scalar!(
        r#"select exists (select from environment where org_id = $1 and id = $2 and provision_due)
           as "due!""#,
        org_id.0,
        id.0
    );
    Ok(due.fetch_one(tx.conn()).await?)
}

/// Returns the host and port of the databases on the environment's server; empty if the runner has not
/// reported it.
pub(crate) async fn database_address(db: &Db, environment: &Environment) -> Result<String> {
    // The caller has read the environment with the grant (no org_id).
    let address = query_scalar!(
        "select database_address from server where id = $1",
        environment.server_id.map(|it| it.0)
    );
    Ok(address.fetch_optional(db.pool()).await?.unwrap_or_default())
}

/// Column `config`.
#[derive(sqlx::Type)]
#[sqlx(transparent)]
struct ConfigColumn(Json<Config>);

impl From<ConfigColumn> for Config {
    fn from(column: ConfigColumn) -> Self {
        column.0.0
    }
}
