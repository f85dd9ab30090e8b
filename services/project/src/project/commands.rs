//! Commands on existing projects: the steps of an operation, across tables.

use chassis::{Error, ProjectGrant, Result, Tx};
use project_rules::{
    environment::{self, admission::Initiator, production::ProductionRight},
    project::{
        Project, State,
        edit::{ConnectionChange, NewRepository, Patch},
    },
    task::{Kind, TaskSpec},
    types::ProjectRef,
    variable::Vault,
};

use crate::{
    addon::commands::attach_database,
    environment::commands::{delete_project_if_empty, enqueue_task},
    store,
};

/// Updates the fields of a project that the patch names.
pub(super) async fn update(
    tx: &mut Tx,
    grant: &ProjectGrant,
    patch: Patch,
    etag: &str,
    vault: &Vault,
) -> Result<Project> {
    let project_ref = ProjectRef::from(grant);
    if patch.odoo_version.as_ref().is_some_and(|it| !it.is_empty()) {
        // For the database of a first Odoo version: environments are locked before their project.
        store::environment::lock_of_project(tx, project_ref).await?;
    }
    let project = store::project::lock(tx, project_ref).await?;
    // `Some(None)` clears the server.
    if let Some(Some(server_id)) = patch.server_id {
        store::server::lock_against_removal(tx, grant.org_id(), server_id).await?;
    }
    let connection = match patch.git_connection_id {
        Some(Some(id)) => Some(store::git_connection::load(tx, grant.org_id(), id).await?),
        Some(None) | None => None,
    };
    let connection = match (&connection, patch.git_connection_id) {
        (Some(connection), _) => ConnectionChange::Set(connection),
        (None, Some(None)) => ConnectionChange::Remove,
        (None, _) => ConnectionChange::Keep,
    };
    let unchanged = project.clone();
    let Some(changed) = project.update(patch, connection, etag, vault, tx.now)? else {
        return Ok(unchanged);
    };
    let project = store::project::update(tx, changed).await?;
    if unchanged.odoo_version.is_empty() && !project.odoo_version.is_empty() {
        attach_database(tx, project_ref, grant.account().user_id, vault).await?;
    }
    Ok(project)
}

/// Replaces the repository of a project (PE-7).
pub(super) async fn change_repository(
    tx: &mut Tx,
    grant: &ProjectGrant,
    repository: NewRepository,
    confirm_name: &str,
    etag: &str,
    vault: &Vault,
) -> Result<Project> {
    let project = store::project::lock(tx, grant.into()).await?;
    let connection = match repository.git_connection_id {
        Some(id) => Some(store::git_connection::load(tx, grant.org_id(), id).await?),
        None => None,
    };
    let connection = connection.as_ref().map_or(ConnectionChange::Keep, ConnectionChange::Set);
    let now = tx.now;
    let changed =
        project.change_repository(repository, connection, confirm_name, etag, vault, now)?;
    store::project::update(tx, changed).await
}

/// Moves the credential in a URL that an older version has stored into a sealed token. `false`: there is no
/// such URL.
pub(crate) async fn move_credential(tx: &mut Tx, vault: &Vault) -> Result<bool> {
    let Some(project) = store::project::lock_with_credential(tx).await? else { return Ok(false) };
    let Some(changed) = project.move_credential(vault, tx.now)? else { return Ok(false) };
    store::project::update(tx, changed).await?;
    Ok(true)
}

/// A deletion that has begun.
pub(super) struct DeletionStarted {
    pub(super) project: Project,
    /// Number of environments that are destroyed before the project is deleted.
    pub(super) destroying_environments: i32,
}

/// Begins the deletion of a project: enqueues the destruction of every environment, or deletes the project at
/// once if it has none. A repeated call continues a deletion that has begun.
pub(super) async fn delete(
    tx: &mut Tx,
    grant: &ProjectGrant,
    confirm_name: &str,
    etag: &str,
) -> Result<DeletionStarted> {
    let project_ref = ProjectRef::from(grant);
    // Environments are locked before their project, as in every operation.
    let environments = store::environment::lock_of_project(tx, project_ref).await?;
    let project = store::project::lock(tx, project_ref).await?;
    if usize::try_from(project.environment_count).ok() != Some(environments.len()) {
        let message = "an environment was created or destroyed by another call; try again";
        return Err(Error::conflict(message));
    }
    let has_begun = project.state == State::Deleting;
    let deleting = project.request_deletion(confirm_name, etag, &environments, tx.now)?;
    // Stored, with its event, only once.
    let project = if has_begun {
        deleting.state().clone()
    } else {
        store::project::update(tx, deleting).await?
    };
    let mut destroying_environments = 0;
    for environment in environments {
        destroying_environments += 1;
        if environment.state == environment::State::Destroying {
            continue;
        }
        // Deleting a project requires no further permission for its production environment.
        let initiator = Initiator::person(grant, ProductionRight::NotRequired);
        let destroy = TaskSpec::new(Kind::Destroy);
        enqueue_task(tx, environment, destroy, initiator).await?;
    }
    delete_project_if_empty(tx, project_ref).await?;
    Ok(DeletionStarted { project, destroying_environments })
}
