//! The gRPC surface of projects.

use api::{
    identity::{
        ListVisibleProjectsRequest, RegisterProjectRequest,
        access_service_client::AccessServiceClient,
        project_access_service_client::ProjectAccessServiceClient,
    },
    project::{self as pb, project_service_server::ProjectService},
};
use chassis::{
    Access, Call, Db, ProjectId, Reply, Tx, error::remote, link::Link, page::Pager, reply,
};
use tonic::Request;
use uuid::Uuid;

use super::{Draft, Project, free_slug, slug, store};
use crate::organization;

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) identity: Link,
    pub(crate) local_repositories: bool,
}

#[tonic::async_trait]
impl ProjectService for Rpc {
    async fn create_project(
        &self,
        request: Request<pb::CreateProjectRequest>,
    ) -> Reply<pb::CreateProjectResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let draft = Draft::of(&call.message, self.local_repositories)?;
        let create = async |tx: &mut Tx| {
            let id = ProjectId::new();
            store::lock_id(tx, id).await?;
            let slug = if let Some(slug) = &draft.slug {
                slug.clone()
            } else {
                let wanted = slug(&draft.name);
                free_slug(&wanted, &store::slugs_like(tx, grant.org_id(), &wanted).await?)
            };
            let project =
                store::insert(tx, Project::create(&grant, id, slug, draft, tx.now)).await?;
            // If we break off after this, the reaction to identity's event undoes it.
            let registration =
                RegisterProjectRequest { org_id: project.org_id.into(), project_id: id.into() };
            let mut identity = ProjectAccessServiceClient::new(self.identity.clone());
            let registered = identity.register_project(call.forward(registration)).await;
            let registered = registered.map_err(remote("identity"))?.into_inner();
            let consistency_token = registered.consistency_token;
            Ok(pb::CreateProjectResponse { project: Some((&project).into()), consistency_token })
        };
        reply(self.db.write(&call, create).await?)
    }

    async fn get_project(
        &self,
        request: Request<pb::GetProjectRequest>,
    ) -> Reply<pb::GetProjectResponse> {
        let call = Call::of(request)?;
        let grant =
            self.access.project(&call, &call.message.org_id, &call.message.project_id).await?;
        let project = store::get(&self.db, &grant).await?;
        reply(pb::GetProjectResponse { project: Some((&project).into()) })
    }

    async fn list_projects(
        &self,
        request: Request<pb::ListProjectsRequest>,
    ) -> Reply<pb::ListProjectsResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.org(&call, &it.org_id).await?;
        let page = self.pager.page(&call, it.page_size, &it.page_token, &[&it.org_id])?;
        let question = call.forward(ListVisibleProjectsRequest { org_id: it.org_id.clone() });
        let mut identity = AccessServiceClient::new(self.identity.clone());
        let visible = identity.list_visible_projects(question).await.map_err(remote("identity"))?;
        let visible = visible.into_inner();
        let ids = || visible.projects.iter().filter_map(|it| Uuid::try_parse(&it.project_id).ok());
        let only = (!visible.all).then(|| ids().collect());
        let rows = store::list(&self.db, grant.org_id(), only, &page).await?;
        let (rows, next_page_token) = page.cut(rows, |it| it.id.into());
        reply(pb::ListProjectsResponse {
            projects: rows.iter().map(Into::into).collect(),
            next_page_token,
        })
    }

    async fn describe_organization(
        &self,
        request: Request<pb::DescribeOrganizationRequest>,
    ) -> Reply<pb::DescribeOrganizationResponse> {
        let call = Call::of(request)?;
        let org_id = call.message.org_id.parse()?;
        let it = organization::store::holdings(&self.db, org_id).await?;
        let small = |count: i64| i32::try_from(count).unwrap_or(i32::MAX);
        reply(pb::DescribeOrganizationResponse {
            projects: small(it.projects),
            environments: small(it.environments),
            running_environments: organization::store::running(&self.db, org_id).await?,
            running_environment_count: small(it.running),
        })
    }
}
