//! Changes of grants, and the registration of projects.

// The chassis' `ProjectGrant` proves a permission of the caller; the one of the rules is a role on a project.
use chassis::{Account, Error, ProjectGrant as Authorization, Result, Tx};
use identity_rules::{
    policy::{OrgRole, ProjectRole},
    project_access::{ProjectGrant, unregister_project},
    types::{ConsistencyToken, Principal, ProjectRef},
};

use super::store;
use crate::{access, api_key, member, organization, team};

/// The result of a changed or removed grant.
pub(super) struct GrantChange {
    pub(super) grant: ProjectGrant,
    pub(super) token: ConsistencyToken,
    pub(super) warning: Option<GrantWarning>,
}

/// A consequence of a change that its caller may not expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GrantWarning {
    /// The project has lost its last Admin by an explicit grant (ID-40).
    LastExplicitAdmin,
    /// The member is a Viewer of the organization, which limits the granted role (ID-52).
    ViewerLimit,
}

/// Gives a principal of the organization a role on the project.
pub(super) async fn set(
    tx: &mut Tx,
    authorization: &Authorization,
    principal: Principal,
    role: ProjectRole,
) -> Result<GrantChange> {
    let project = project_ref(authorization);
    let organization = access::lock_project(tx, authorization).await?;
    store::require_project(tx, project.org_id, project.project_id).await?;
    let org_role = require_principal(tx, project, principal).await?;
    let is_limited = org_role == Some(OrgRole::Viewer) && role > ProjectRole::Viewer;
    let limit = is_limited.then_some(GrantWarning::ViewerLimit);
    let before = store::find(tx, project.org_id, project.project_id, principal).await?;
    let granted_by = authorization.account().user_id;
    let grant = ProjectGrant::new(project, principal, role, granted_by, tx.now);
    let was_admin = before.as_ref().is_some_and(|it| it.role == ProjectRole::Admin);
    let Some(changed) = grant.set(before.as_ref()) else {
        let grant = before.ok_or(Error::NotFound("grant"))?;
        return Ok(GrantChange { grant, token: organization.token(), warning: limit });
    };
    let token = organization::store::bump_access_version(tx, project.org_id, &changed).await?;
    let grant = store::save(tx, changed).await?;
    let admin_lost = was_admin && role != ProjectRole::Admin;
    let warning = limit.or(last_admin_warning(tx, project, admin_lost).await?);
    Ok(GrantChange { grant, token, warning })
}

/// Removes the role of a principal on the project.
pub(super) async fn remove(
    tx: &mut Tx,
    authorization: &Authorization,
    principal: Principal,
) -> Result<GrantChange> {
    let project = project_ref(authorization);
    access::lock_project(tx, authorization).await?;
    let grant = store::find(tx, project.org_id, project.project_id, principal).await?;
    let revoked = grant.ok_or(Error::NotFound("grant"))?.revoke();
    let token = organization::store::bump_access_version(tx, project.org_id, &revoked).await?;
    let grant = store::delete(tx, revoked).await?;
    let admin_lost = grant.role == ProjectRole::Admin;
    let warning = last_admin_warning(tx, project, admin_lost).await?;
    Ok(GrantChange { grant, token, warning })
}

/// Registers a new project, if the plan allows one more, and makes its creator Admin. Decides the creator's
/// permission again, because access may have changed since the project service checked it (PE-1). Does
/// nothing if the project is registered already.
pub(super) async fn register_project(
    tx: &mut Tx,
    account: &Account,
    project: ProjectRef,
) -> Result<ConsistencyToken> {
    let ProjectRef { org_id, project_id } = project;
    let organization = organization::store::lock(tx, org_id).await?;
    access::require(tx, &organization, account, "org.projects.create", None).await?;
    if store::is_registered(tx, org_id, project_id).await? {
        return Ok(organization.token());
    }
    organization.require_project_capacity()?;
    let creator = Principal::User(account.user_id);
    let grant = ProjectGrant::new(project, creator, ProjectRole::Admin, account.user_id, tx.now);
    let registered = grant.register_project();
    let token = organization::store::bump_access_version(tx, org_id, &registered).await?;
    store::insert_project(tx, org_id, project_id).await?;
    store::save(tx, registered).await?;
    Ok(token)
}

/// Removes a deleted or abandoned project with its grants, and revokes the API keys that are bound to it
/// (PE-15). Does nothing if the project or its organization does not exist any more.
pub(crate) async fn unregister(tx: &mut Tx, project: ProjectRef) -> Result<()> {
    let ProjectRef { org_id, project_id } = project;
    match organization::store::lock(tx, org_id).await {
        // Purged, with everything that belonged to it.
        Err(Error::NotFound(_)) => return Ok(()),
        locked => _ = locked?,
    }
    if !store::is_registered(tx, org_id, project_id).await? {
        return Ok(());
    }
    let grants = store::list_on_project(tx, org_id, project_id).await?;
    let unregistered = unregister_project(project, &grants);
    organization::store::bump_access_version(tx, org_id, &unregistered).await?;
    store::delete_all_on_project(tx, org_id, project_id).await?;
    for key in api_key::store::lock_of_project(tx, org_id, project_id).await? {
        if let Some(revoked) = key.revoke(tx.now) {
            api_key::store::revoke(tx, revoked).await?;
        }
    }
    store::delete_project(tx, org_id, project_id).await?;
    tx.emit(unregistered);
    Ok(())
}

fn project_ref(authorization: &Authorization) -> ProjectRef {
    ProjectRef { org_id: authorization.org_id(), project_id: authorization.project_id() }
}

/// Refuses a principal that does not belong to the organization (ID-31). Returns the role of a member in the
/// organization; `None` for a team.
async fn require_principal(
    tx: &mut Tx,
    project: ProjectRef,
    principal: Principal,
) -> Result<Option<OrgRole>> {
    match principal {
        Principal::User(id) => {
            let member = member::store::find(tx, project.org_id, id).await?;
            Ok(Some(member.ok_or(Error::NotFound("member"))?.role))
        }
        Principal::Team(id) => {
            team::store::find(tx, project.org_id, id).await?;
            Ok(None)
        }
    }
}

/// Returns the warning about a project that has lost an Admin and has no other one by an explicit grant.
async fn last_admin_warning(
    tx: &mut Tx,
    project: ProjectRef,
    admin_lost: bool,
) -> Result<Option<GrantWarning>> {
    if !admin_lost {
        return Ok(None);
    }
    let grants = store::list_on_project(tx, project.org_id, project.project_id).await?;
    let has_admin = grants.iter().any(|it| it.role == ProjectRole::Admin);
    Ok((!has_admin).then_some(GrantWarning::LastExplicitAdmin))
}
