//! Creation of projects, across identity and this service.
//!
//! 1. Register (call to identity, idempotent by the new project id): counts the project towards the plan and
//!    makes the creator its admin.
//! 2. Store (local transaction, together with the stored response of the `request_id`).
//!
//! If the second step fails, the registration is abandoned at once. After a crash between the steps it is
//! abandoned by the background job: the reaction to identity's event `ProjectRegistered` stores a pending
//! registration, which the job ends after [`registration::PENDING_MAX`] if there is still no project. A
//! repetition of the call begins with a new project id, and does not wait for the job. Until then the plan
//! counts one project too many.

use api::check::Check;
use chassis::{Call, Db, Error, Grant, ProjectId, Result, Tx, channel::ServiceChannel};
use project_rules::{
    connection::git::GitConnection,
    project::{
        Draft, Project, Refused,
        registration::{self, RegistrationState},
        slug_from_name, unused_slug,
    },
    types::ProjectRef,
    variable::Vault,
};
use prost::{Message, Name};

use super::client;
use crate::{addon::commands::attach_database, store};

/// Largest number of slugs that are tried for a project whose request names none. A slug is tried again if
/// another call takes it at the same time.
const SLUG_ATTEMPTS_MAX: usize = 20;

/// The creation of a project.
pub(super) struct CreateProject<'a> {
    pub(super) db: &'a Db,
    pub(super) identity: &'a ServiceChannel,
    pub(super) grant: &'a Grant,
    pub(super) vault: &'a Vault,
}

impl CreateProject<'_> {
    /// Creates a project. `response` makes the response from the project and identity's consistency token; a
    /// repetition of the call returns the first response.
    pub(super) async fn run<M, R>(
        &self,
        call: &Call<M>,
        draft: Draft,
        response: impl FnOnce(&Project, String) -> R,
    ) -> Result<R>
    where
        M: Message + Check,
        R: Message + Name + Default,
    {
        if let Some(first) = self.db.stored_response(call).await? {
            return Ok(first);
        }
        self.check(&draft).await?;
        let project = ProjectRef { org_id: self.grant.org_id(), project_id: ProjectId::new() };
        let consistency_token = client::register_project(self.identity, call, project).await?;
        let mut is_stored = false;
        let store = async |tx: &mut Tx| {
            let project = self.store(tx, project, &draft).await?;
            is_stored = true;
            Ok(response(&project, consistency_token))
        };
        let created = self.db.write(call, store).await;
        // Not stored without an error: another call with the same `request_id` has stored its project.
        if created.is_err() || !is_stored {
            self.abandon(project).await;
        }
        created
    }

    /// Refuses a creation before the registration. The transaction decides about the slug again.
    async fn check(&self, draft: &Draft) -> Result<()> {
        if let Some(server_id) = draft.server_id {
            store::server::get(self.db, self.grant, server_id).await?;
        }
        if let Some(id) = draft.git_connection_id {
            let connection = store::git_connection::get(self.db, self.grant, id).await?;
            draft.require_connection(&connection)?;
        }
        match &draft.slug {
            Some(slug) if store::project::has_slug(self.db, self.grant, slug).await? => {
                Err(Refused::SlugTaken(slug.clone()).into())
            }
            _ => Ok(()),
        }
    }

    /// Stores the project with the requested slug, or with a free one that is derived from the name.
    async fn store(&self, tx: &mut Tx, project: ProjectRef, draft: &Draft) -> Result<Project> {
        store::registration::lock_project_id(tx, project).await?;
        if let Some(server_id) = draft.server_id {
            store::server::lock_against_removal(tx, project.org_id, server_id).await?;
        }
        let connection = self.connection(tx, draft).await?;
        let preferred = draft.slug.clone().unwrap_or_else(|| slug_from_name(&draft.name));
        let mut slug = preferred.clone();
        for _ in 0..SLUG_ATTEMPTS_MAX {
            let id = project.project_id;
            let new = draft.clone();
            let connection = connection.as_ref();
            let (vault, now) = (self.vault, tx.now);
            let created = Project::create(self.grant, id, slug, new, connection, vault, now)?;
            if let Some(stored) = store::project::insert(tx, created).await? {
                if !stored.odoo_version.is_empty() {
                    let user_id = self.grant.account().user_id;
                    attach_database(tx, project, user_id, self.vault).await?;
                }
                return Ok(stored);
            }
            if store::registration::is_abandoned(tx, project).await? {
                let message = "the creation of the project timed out and was undone; try again";
                return Err(Error::conflict(message));
            }
            if draft.slug.is_some() {
                return Err(Refused::SlugTaken(preferred).into());
            }
            let similar = store::project::slugs_with_prefix(tx, project.org_id, &preferred).await?;
            slug = unused_slug(&preferred, &similar);
        }
        Err(Error::conflict("other calls create projects with the same name; try again"))
    }

    /// Returns the connection that the draft names, or the default one for its repository if it has no
    /// credential.
    async fn connection(&self, tx: &mut Tx, draft: &Draft) -> Result<Option<GitConnection>> {
        let org_id = self.grant.org_id();
        match (draft.git_connection_id, draft.default_connection_server()) {
            (Some(id), _) => Ok(Some(store::git_connection::load(tx, org_id, id).await?)),
            (None, Some(server)) => store::git_connection::load_default(tx, org_id, &server).await,
            (None, None) => Ok(None),
        }
    }

    /// Abandons the registration after a failure. If that fails, too, the background job does it later.
    async fn abandon(&self, project: ProjectRef) {
        let abandon = async |tx: &mut Tx| abandon(tx, project).await;
        if let Err(error) = self.db.write_as_system("project registration", abandon).await {
            let (project, error) = (project.project_id, chassis::error::causes(&error));
            tracing::warn!(%project, error, "the registration of a project is abandoned later");
        }
    }
}

/// Abandons the registration of a project, unless the project exists: it cannot be created any more, and an
/// event makes identity remove the registration.
async fn abandon(tx: &mut Tx, project: ProjectRef) -> Result<()> {
    store::registration::lock_project_id(tx, project).await?;
    if store::project::exists(tx, project).await? {
        return store::registration::delete_pending(tx, project).await;
    }
    if store::registration::set_state(tx, project, RegistrationState::Abandoned).await? {
        tx.emit(registration::abandoned(project));
    }
    Ok(())
}

/// Abandons the registrations of calls that were interrupted by a crash. Returns the number of registrations
/// that had expired.
pub(crate) async fn abandon_expired(tx: &mut Tx) -> Result<usize> {
    let before = tx.now - registration::PENDING_MAX;
    let expired = store::registration::expired(tx, before).await?;
    for project in &expired {
        abandon(tx, *project).await?;
    }
    Ok(expired.len())
}

/// Deletes old abandoned and deleted registrations. Returns how many.
pub(crate) async fn delete_ended_registrations(tx: &mut Tx) -> Result<u64> {
    let before = tx.now - registration::ENDED_RETENTION;
    store::registration::delete_ended(tx, before).await
}
