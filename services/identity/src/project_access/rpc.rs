//! The gRPC surface of grants on projects.

use api::identity::{self as pb, project_access_service_server::ProjectAccessService};
use chassis::{Access, Call, Db, Error, OrgId, ProjectId, Reply, Result, Tx, page::Pager, reply};
use tonic::Request;

use super::{ProjectGrant, store};
use crate::{
    access, member,
    organization::{self, wire::consistency_token},
    policy::ProjectRole,
    snapshot::Principal,
    team,
};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
}

#[tonic::async_trait]
impl ProjectAccessService for Rpc {
    async fn list_project_access(
        &self,
        request: Request<pb::ListProjectAccessRequest>,
    ) -> Reply<pb::ListProjectAccessResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let page =
            self.pager.page(&call, it.page_size, &it.page_token, &[&it.org_id, &it.project_id])?;
        let rows = store::list(&self.db, grant.org_id(), grant.project_id(), &page).await?;
        let (rows, next_page_token) = page.cut(rows, |it| it.id.to_string());
        reply(pb::ListProjectAccessResponse {
            grants: rows.iter().map(Into::into).collect(),
            next_page_token,
        })
    }

    async fn set_project_access(
        &self,
        request: Request<pb::SetProjectAccessRequest>,
    ) -> Reply<pb::SetProjectAccessResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let principal = Principal::try_from(&it.principal)?;
        let role = ProjectRole::try_from(it.role())?;
        let set = async |tx: &mut Tx| set(tx, &grant, principal, role).await;
        reply(self.db.write(&call, set).await?)
    }

    async fn remove_project_access(
        &self,
        request: Request<pb::RemoveProjectAccessRequest>,
    ) -> Reply<pb::RemoveProjectAccessResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let principal = Principal::try_from(&it.principal)?;
        let (org_id, project_id) = (grant.org_id(), grant.project_id());
        let remove = async |tx: &mut Tx| {
            access::lock_project(tx, &grant).await?;
            let it = store::find(tx, org_id, project_id, principal).await?;
            let revoked = it.ok_or(Error::NotFound("grant"))?.revoke();
            let version = organization::store::bump(tx, org_id, &revoked).await?;
            let it = store::delete(tx, revoked).await?;
            let warning = warning(tx, &grant, it.role == ProjectRole::Admin).await?;
            let consistency_token = consistency_token(org_id, version);
            Ok(pb::RemoveProjectAccessResponse { consistency_token, warning: warning.into() })
        };
        reply(self.db.write(&call, remove).await?)
    }

    async fn register_project(
        &self,
        request: Request<pb::RegisterProjectRequest>,
    ) -> Reply<pb::RegisterProjectResponse> {
        let call = Call::of(request)?;
        let creator = call.account()?.user_id;
        let org_id: OrgId = call.message.org_id.parse()?;
        let project_id: ProjectId = call.message.project_id.parse()?;
        let register = async |tx: &mut Tx| {
            let organization = organization::store::lock(tx, org_id).await?;
            // Under the lock: what the creator may do now (PE-1), not when the project service asked.
            let account = call.account()?;
            access::require(tx, &organization, account, "org.projects.create", None).await?;
            let mut version = organization.access_version;
            if !store::is_registered(tx, org_id, project_id).await? {
                organization.place_for_project()?;
                let (place, admin) = ((org_id, project_id), ProjectRole::Admin);
                let grant =
                    ProjectGrant::new(place, Principal::User(creator), admin, creator, tx.now);
                let registered = grant.register();
                version = organization::store::bump(tx, org_id, &registered).await?;
                store::insert_project(tx, org_id, project_id).await?;
                store::save(tx, registered).await?;
            }
            Ok(pb::RegisterProjectResponse {
                consistency_token: consistency_token(org_id, version),
            })
        };
        reply(self.db.write(&call, register).await?)
    }
}

/// Gives a principal of the organization a role on the project.
async fn set(
    tx: &mut Tx,
    grant: &chassis::ProjectGrant,
    principal: Principal,
    role: ProjectRole,
) -> Result<pb::SetProjectAccessResponse> {
    let (org_id, project_id) = (grant.org_id(), grant.project_id());
    let organization = access::lock_project(tx, grant).await?;
    store::require(tx, org_id, project_id).await?;
    match principal {
        Principal::User(id) => {
            let member = member::store::find(tx, org_id, id).await?;
            member.map(|_| ()).ok_or(Error::NotFound("member"))?;
        }
        Principal::Team(id) => _ = team::store::find(tx, org_id, id).await?,
    }
    let before = store::find(tx, org_id, project_id, principal).await?;
    let by = grant.account().user_id;
    let wanted = ProjectGrant::new((org_id, project_id), principal, role, by, tx.now);
    let was_admin = before.as_ref().is_some_and(|it| it.role == ProjectRole::Admin);
    let (it, version) = match (wanted.set(before.as_ref()), before) {
        (Some(changed), _) => {
            let version = organization::store::bump(tx, org_id, &changed).await?;
            (store::save(tx, changed).await?, version)
        }
        (None, Some(before)) => (before, organization.access_version),
        (None, None) => return Err(Error::NotFound("grant")),
    };
    let warning = warning(tx, grant, was_admin && role != ProjectRole::Admin).await?;
    let (grant, consistency_token) = (Some((&it).into()), consistency_token(org_id, version));
    Ok(pb::SetProjectAccessResponse { grant, consistency_token, warning: warning.into() })
}

/// What the caller should know after a role was lost (ID-40).
async fn warning(
    tx: &mut Tx,
    grant: &chassis::ProjectGrant,
    admin_lost: bool,
) -> Result<pb::AccessWarning> {
    let none = pb::AccessWarning::Unspecified;
    if !admin_lost {
        return Ok(none);
    }
    let grants = store::all_on(tx, grant.org_id(), grant.project_id()).await?;
    let left = grants.iter().any(|it| it.role == ProjectRole::Admin);
    Ok(if left { none } else { pb::AccessWarning::LastExplicitAdmin })
}
