//! The gRPC surface of projects.

use api::{
    identity::{RegisterProjectRequest, project_access_service_client::ProjectAccessServiceClient},
    project::{self as pb, project_service_server::ProjectService},
};
use chassis::{
    Access, Call, Db, Error, ProjectId, Reply, Tx, error::remote, key, link::Link, page::Pager,
    reply,
};
use tonic::Request;

use super::{Draft, Project, deletion, free_slug, listing, overview, slug, store, wire};
use crate::{environment, organization, push, repository::wrong_url, server};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) identity: Link,
    pub(crate) local_repositories: bool,
    /// Where git servers find this one.
    pub(crate) base_url: String,
    /// Seals the secrets of push webhooks.
    pub(crate) seal: key::Secret,
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
            if let Some(server_id) = draft.server_id {
                server::store::load(tx, grant.org_id(), server_id).await?;
            }
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
        let filter = [it.org_id.as_str(), &it.query, it.order_by().as_str_name()];
        let page = self.pager.page(&call, it.page_size, &it.page_token, &filter)?;
        let rows = listing::rows(self, &call, &grant, &page).await?;
        let (rows, next_page_token) = page.cut(rows, |it| it.id.into());
        reply(pb::ListProjectsResponse {
            projects: rows.iter().map(Into::into).collect(),
            next_page_token,
        })
    }

    async fn get_project_overview(
        &self,
        request: Request<pb::GetProjectOverviewRequest>,
    ) -> Reply<pb::GetProjectOverviewResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let overview = Some(overview::read(&self.db, &grant).await?);
        reply(pb::GetProjectOverviewResponse { overview })
    }

    async fn rotate_push_secret(
        &self,
        request: Request<pb::RotatePushSecretRequest>,
    ) -> Reply<pb::RotatePushSecretResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let (secret, sealed) = push::secret::make(&self.seal, grant.project_id());
        let rotate = async |tx: &mut Tx| {
            let rotated = push::secret::rotated(&grant);
            let place = (grant.org_id(), grant.project_id());
            push::store::rotate(tx, place, &sealed, rotated).await?;
            let url = format!("{}/hooks/push/{}", self.base_url, grant.project_id());
            Ok(pb::RotatePushSecretResponse { url, secret })
        };
        reply(self.db.write(&call, rotate).await?)
    }

    async fn receive_push(
        &self,
        request: Request<pb::ReceivePushRequest>,
    ) -> Reply<pb::ReceivePushResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let org_id = push::secret::check(&self.db, &self.seal, it).await?;
        let push = match push::read(&it.event, &it.body) {
            Ok(push) => push,
            Err(push::Ignored(why)) => {
                let ignored = why.to_owned();
                return reply(pb::ReceivePushResponse { ignored, ..Default::default() });
            }
        };
        let place = (org_id, it.project_id.parse()?);
        let follow = async |tx: &mut Tx| push::deploy::follow(tx, place, &push).await;
        reply(self.db.write(&call, follow).await?)
    }

    async fn update_project(
        &self,
        request: Request<pb::UpdateProjectRequest>,
    ) -> Reply<pb::UpdateProjectResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let patch = wire::patch(it)?;
        let update = async |tx: &mut Tx| {
            let project = store::lock(tx, (grant.org_id(), grant.project_id())).await?;
            if let Some(Some(server_id)) = patch.server_id {
                server::store::hold(tx, grant.org_id(), server_id).await?;
            }
            let unchanged = pb::Project::from(&project);
            let project = match project.edit(patch, &it.etag, tx.now)? {
                Some(changed) => (&store::update(tx, changed).await?).into(),
                None => unchanged,
            };
            Ok(pb::UpdateProjectResponse { project: Some(project) })
        };
        reply(self.db.write(&call, update).await?)
    }

    async fn change_repository(
        &self,
        request: Request<pb::ChangeRepositoryRequest>,
    ) -> Reply<pb::ChangeRepositoryResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        if let Some(wrong) = wrong_url(&it.repository_url, self.local_repositories) {
            return Err(Error::invalid("repository_url", wrong).into());
        }
        let change = async |tx: &mut Tx| {
            let project = store::lock(tx, (grant.org_id(), grant.project_id())).await?;
            let url = it.repository_url.clone();
            let changed = project.change_repository(url, &it.confirm_name, &it.etag, tx.now)?;
            let project = store::update(tx, changed).await?;
            Ok(pb::ChangeRepositoryResponse { project: Some((&project).into()) })
        };
        reply(self.db.write(&call, change).await?)
    }

    async fn preview_project_deletion(
        &self,
        request: Request<pb::PreviewProjectDeletionRequest>,
    ) -> Reply<pb::PreviewProjectDeletionResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let project = store::get(&self.db, &grant).await?;
        let environments = environment::store::of_project(&self.db, &grant).await?;
        let tasks = store::count_tasks(&self.db, &grant).await?;
        let blocking = environments.iter().filter(|it| deletion::blocks(it));
        reply(pb::PreviewProjectDeletionResponse {
            project: Some((&project).into()),
            blocking_environment_ids: blocking.map(|it| it.id.into()).collect(),
            environments: environments.iter().map(Into::into).collect(),
            tasks: i32::try_from(tasks).unwrap_or(i32::MAX),
        })
    }

    async fn delete_project(
        &self,
        request: Request<pb::DeleteProjectRequest>,
    ) -> Reply<pb::DeleteProjectResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        if !it.confirm {
            return Err(Error::invalid("confirm", "must be true: this cannot be undone").into());
        }
        let delete = async |tx: &mut Tx| deletion::begin(tx, &grant, it).await;
        reply(self.db.write(&call, delete).await?)
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
