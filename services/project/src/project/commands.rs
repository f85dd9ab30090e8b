//! Commands on projects: the steps of an operation, across tables and services.

use api::check::Check;
use chassis::{
    Call, Db, Error, Grant, ProjectGrant, ProjectId, Result, Tx, channel::ServiceChannel,
};
use prost::{Message, Name};
use uuid::Uuid;

use super::{
    Draft, Project, ProjectRef, Refused, State, client, deletion,
    edit::Patch,
    reservation::{self, Reservation},
    slug_from_name, store, unused_slug,
};
use crate::{
    environment::{
        self, State as EnvironmentState,
        commands::{Initiator, enqueue_task},
        production::ProductionRight,
    },
    server,
    task::{Kind, TaskSpec},
};

/// The creation of a project, of which identity and this service each store a part.
///
/// No database transaction is open while identity is called:
///
/// 1. Reserve (local transaction): checks the server and the slug, and stores a pending reservation with a
///    new project id. A repetition of the call (same `request_id`) gets the reservation of the first attempt,
///    so that both continue with one project id.
/// 2. Register (call to identity): counts the project towards the plan and makes the creator its admin.
///    Idempotent by the project id.
/// 3. Confirm (local transaction, together with the stored answer of the `request_id`): stores the project
///    and confirms the reservation. Refused if the reservation was released in the meantime.
///
/// If step 2 or 3 fails, the reservation is released. After a crash, a background job releases it once it has
/// reached [`reservation::PENDING_MAX`]. The registration of a released reservation is taken back by the
/// event `ProjectAbandoned`. If `ProjectRegistered` had arrived by the time of the release, the release emits
/// it; otherwise the reaction to `ProjectRegistered` does.
pub(super) struct CreateProject<'a> {
    pub(super) db: &'a Db,
    pub(super) identity: &'a ServiceChannel,
    pub(super) grant: &'a Grant,
    /// Idempotency key of the call.
    pub(super) request_id: Option<Uuid>,
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
        let reservation = self.reserve(&draft).await?;
        let project_ref = reservation.project_ref();
        let mut is_confirmed = reservation.confirmed;
        let created = async {
            // A confirmed reservation is one of a repeated call, whose first response is stored
            // and returned, so that the token is not used.
            let consistency_token = if is_confirmed {
                String::new()
            } else {
                client::register_project(self.identity, call, project_ref).await?
            };
            let confirm = async |tx: &mut Tx| {
                let project = self.confirm(tx, reservation, draft).await?;
                is_confirmed = true;
                Ok(response(&project, consistency_token))
            };
            self.db.write(call, confirm).await
        }
        .await;
        // Not confirmed without an error: the stored response of an earlier attempt was returned. The release
        // of a confirmed reservation does nothing.
        if created.is_err() || !is_confirmed {
            self.release(project_ref).await;
        }
        created
    }

    async fn reserve(&self, draft: &Draft) -> Result<Reservation> {
        let org_id = self.grant.org_id();
        let creator_id = self.grant.account().user_id;
        let reserve = async |tx: &mut Tx| {
            reservation::store::lock_organization(tx, org_id).await?;
            if let Some(request_id) = self.request_id
                && let Some(earlier) =
                    reservation::store::lock_by_request(tx, org_id, creator_id, request_id).await?
            {
                return resume(tx, earlier, draft).await;
            }
            // Fails if the server does not exist.
            if let Some(server_id) = draft.server_id {
                server::store::load(tx, org_id, server_id).await?;
            }
            let reservation = Reservation {
                org_id,
                project_id: ProjectId::new(),
                creator_id,
                request_id: self.request_id,
                slug: choose_slug(tx, self.grant, draft).await?,
                confirmed: false,
                registered: false,
                created_at: tx.now,
            };
            reservation::store::insert(tx, &reservation).await?;
            Ok(reservation)
        };
        self.db.write_as_system("project reservation", reserve).await
    }

    async fn confirm(
        &self,
        tx: &mut Tx,
        reservation: Reservation,
        draft: Draft,
    ) -> Result<Project> {
        if !reservation::store::confirm(tx, reservation.project_ref()).await? {
            let message = "the creation of the project timed out and was undone; try again";
            return Err(Error::conflict(message));
        }
        if let Some(server_id) = draft.server_id {
            server::store::load(tx, reservation.org_id, server_id).await?;
        }
        let Reservation { project_id, slug, .. } = reservation;
        let created = Project::create(self.grant, project_id, slug, draft, tx.now);
        store::insert(tx, created).await
    }

    /// Releases the reservation after a failure. If that fails, too, the background job does it later.
    async fn release(&self, project: ProjectRef) {
        let release = async |tx: &mut Tx| reservation::release(tx, project).await;
        if let Err(error) = self.db.write_as_system("project reservation", release).await {
            let project = project.project_id;
            tracing::warn!(%project, %error, "the reservation of a project is released later");
        }
    }
}

/// Continues with the reservation of an earlier attempt of the same call.
async fn resume(tx: &mut Tx, earlier: Reservation, draft: &Draft) -> Result<Reservation> {
    if earlier.confirmed {
        return Ok(earlier);
    }
    // A call with other fields is another call, although it has the same `request_id`.
    if draft.slug.as_ref().is_some_and(|it| *it != earlier.slug) {
        let message = "another call with this request_id is in progress or was interrupted; \
                       use a new request_id, or try again in a minute";
        return Err(Error::conflict(message));
    }
    reservation::store::renew(tx, earlier.project_ref()).await?;
    Ok(earlier)
}

/// Returns the slug of a new project: the requested one, if it is free, or one that is derived from the name.
async fn choose_slug(tx: &mut Tx, grant: &Grant, draft: &Draft) -> Result<String> {
    let slug = draft.slug.clone().unwrap_or_else(|| slug_from_name(&draft.name));
    let taken = reservation::store::slugs_with_prefix(tx, grant.org_id(), &slug).await?;
    let unused = unused_slug(&slug, &taken);
    if draft.slug.is_some() && unused != slug {
        return Err(Refused::SlugTaken(slug).into());
    }
    Ok(unused)
}

/// Updates the fields of a project that the patch names.
pub(super) async fn update(
    tx: &mut Tx,
    grant: &ProjectGrant,
    patch: Patch,
    etag: &str,
) -> Result<Project> {
    let project = store::lock(tx, grant.into()).await?;
    // `Some(None)` clears the server.
    if let Some(Some(server_id)) = patch.server_id {
        server::store::lock_against_removal(tx, grant.org_id(), server_id).await?;
    }
    let unchanged = project.clone();
    match project.update(patch, etag, tx.now)? {
        Some(changed) => store::update(tx, changed).await,
        None => Ok(unchanged),
    }
}

/// Replaces the repository of a project (PE-7).
pub(super) async fn change_repository(
    tx: &mut Tx,
    grant: &ProjectGrant,
    url: String,
    confirm_name: &str,
    etag: &str,
) -> Result<Project> {
    let project = store::lock(tx, grant.into()).await?;
    let changed = project.change_repository(url, confirm_name, etag, tx.now)?;
    store::update(tx, changed).await
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
    let environments = environment::store::lock_of_project(tx, project_ref).await?;
    let project = store::lock(tx, project_ref).await?;
    if usize::try_from(project.environment_count).ok() != Some(environments.len()) {
        let message = "an environment was created or destroyed by another call; try again";
        return Err(Error::conflict(message));
    }
    let has_begun = project.state == State::Deleting;
    let deleting = project.delete(confirm_name, etag, &environments, tx.now)?;
    // Stored, with its event, only once.
    let project =
        if has_begun { deleting.state().clone() } else { store::update(tx, deleting).await? };
    let mut destroying_environments = 0;
    for environment in environments {
        destroying_environments += 1;
        if environment.state == EnvironmentState::Destroying {
            continue;
        }
        // Deleting a project requires no further permission for its production environment.
        let initiator = Initiator::person(grant, ProductionRight::NotRequired);
        let destroy = TaskSpec::new(Kind::Destroy);
        enqueue_task(tx, environment, destroy, initiator).await?;
    }
    deletion::delete_if_empty(tx, project_ref).await?;
    Ok(DeletionStarted { project, destroying_environments })
}
