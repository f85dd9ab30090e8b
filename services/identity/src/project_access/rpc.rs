//! The gRPC surface of grants on projects.

use api::identity::{self as pb, project_access_service_server::ProjectAccessService};
use chassis::{Access, Call, Db, Error, OrgId, ProjectId, Reply, Tx, page::Pager, reply};
use tonic::Request;

use super::{ProjectGrant, store};
use crate::{
    member,
    organization::{self, wire::consistency_token},
    policy::{Facts, ProjectRole},
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
        let (user_id, role) = (it.user_id.parse()?, ProjectRole::try_from(it.role())?);
        let place = (grant.org_id(), grant.project_id());
        let set = async |tx: &mut Tx| {
            let organization = organization::store::lock(tx, place.0).await?;
            store::require(tx, place.0, place.1).await?;
            let member = member::store::find(tx, place.0, user_id).await?;
            member.ok_or(Error::NotFound("member"))?;
            let before = store::find(tx, place.0, place.1, user_id).await?;
            let wanted = ProjectGrant::new(place, user_id, role, grant.account().user_id, tx.now);
            let (it, version) = match (wanted.set(before.as_ref()), before) {
                (Some(changed), _) => {
                    let version = organization::store::bump(tx, place.0).await?;
                    (store::save(tx, changed).await?, version)
                }
                (None, Some(before)) => (before, organization.access_version),
                (None, None) => return Err(Error::NotFound("grant")),
            };
            let consistency_token = consistency_token(place.0, version);
            Ok(pb::SetProjectAccessResponse { grant: Some((&it).into()), consistency_token })
        };
        reply(self.db.write(&call, set).await?)
    }

    async fn remove_project_access(
        &self,
        request: Request<pb::RemoveProjectAccessRequest>,
    ) -> Reply<pb::RemoveProjectAccessResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let user_id = it.user_id.parse()?;
        let remove = async |tx: &mut Tx| {
            organization::store::lock(tx, grant.org_id()).await?;
            let it = store::find(tx, grant.org_id(), grant.project_id(), user_id).await?;
            store::delete(tx, it.ok_or(Error::NotFound("grant"))?.revoke()).await?;
            let version = organization::store::bump(tx, grant.org_id()).await?;
            let consistency_token = consistency_token(grant.org_id(), version);
            Ok(pb::RemoveProjectAccessResponse { consistency_token })
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
            let org_role = member::store::find(tx, org_id, creator).await?.map(|it| it.role);
            let org_role = org_role.ok_or(Error::NotFound("organization"))?;
            let verdict = Facts { org_role: Some(org_role), ..Facts::default() }.verdict(CREATE);
            if !verdict.is_some_and(|it| it.allowed) {
                return Err(Error::Denied { permission: CREATE.to_owned() });
            }
            let mut version = organization.access_version;
            let place = (org_id, project_id);
            if !store::existing(tx, org_id).await?.contains(&project_id) {
                organization.place_for_project()?;
                store::insert_project(tx, org_id, project_id).await?;
                let grant = ProjectGrant::new(place, creator, ProjectRole::Admin, creator, tx.now);
                store::save(tx, grant.register()).await?;
                version = organization::store::bump(tx, org_id).await?;
            }
            Ok(pb::RegisterProjectResponse {
                consistency_token: consistency_token(org_id, version),
            })
        };
        reply(self.db.write(&call, register).await?)
    }
}

/// What it takes to create a project.
const CREATE: &str = "org.projects.create";
