//! gRPC service of projects.

use std::sync::Arc;

use api::project::{self as pb, project_service_server::ProjectService};
use chassis::{
    Access, Call, Db, Error, ProjectGrant, Reply, Tx, channel::ServiceChannel, key, page::Pager,
    reply,
};
use project_rules::{
    project::{
        Draft, Project,
        deletion::blocks_deletion,
        edit::{NewRepository, Patch},
    },
    push::{Delivery, Ignored, parse},
    types::ProjectRef,
    variable::Vault,
};
use tonic::Request;

use super::{commands, creation::CreateProject, listing::Listing, overview};
use crate::{connection::probe::Prober, push, store};

/// Implementation of `ProjectService`.
pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) identity: ServiceChannel,
    pub(crate) vault: Vault,
    pub(crate) prober: Arc<Prober>,
    /// Allows paths on the runner's machine as repositories.
    pub(crate) local_repositories: bool,
    /// Base URL of push webhooks.
    pub(crate) push_url: String,
    /// Key that seals the secrets of push webhooks.
    pub(crate) push_secret_keys: key::DerivedKeys,
}

impl Rpc {
    /// Returns the URL of the push webhook of a project.
    fn push_webhook_url(&self, grant: &ProjectGrant) -> String {
        format!("{}/hooks/push/{}", self.push_url, grant.project_id())
    }
}

#[tonic::async_trait]
impl ProjectService for Rpc {
    async fn create_project(
        &self,
        request: Request<pb::CreateProjectRequest>,
    ) -> Reply<pb::CreateProjectResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.org(&call, &message.org_id).await?;
        let draft = Draft::from_request(message, self.local_repositories)?;
        let create = CreateProject {
            db: &self.db,
            identity: &self.identity,
            grant: &grant,
            vault: &self.vault,
        };
        let response = |project: &Project, consistency_token| pb::CreateProjectResponse {
            project: Some(project.into()),
            consistency_token,
        };
        reply(create.run(&call, draft, response).await?)
    }

    async fn get_project(
        &self,
        request: Request<pb::GetProjectRequest>,
    ) -> Reply<pb::GetProjectResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let project = store::project::get(&self.db, &grant).await?;
        reply(pb::GetProjectResponse { project: Some((&project).into()) })
    }

    async fn list_projects(
        &self,
        request: Request<pb::ListProjectsRequest>,
    ) -> Reply<pb::ListProjectsResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.org(&call, &message.org_id).await?;
        let filter = [message.org_id.as_str(), &message.query, message.order_by().as_str_name()];
        let page = self.pager.page(&call, message.page_size, &message.page_token, &filter)?;
        let listing = Listing {
            db: &self.db,
            identity: &self.identity,
            context: &call,
            grant: &grant,
            query: &message.query,
            sort_order: message.order_by().into(),
        };
        let rows = listing.rows(&page).await?;
        let (projects, next_page_token) = page.paginate(rows, |it| listing.place(it));
        reply(pb::ListProjectsResponse {
            projects: projects.iter().map(Into::into).collect(),
            next_page_token,
        })
    }

    async fn get_project_overview(
        &self,
        request: Request<pb::GetProjectOverviewRequest>,
    ) -> Reply<pb::GetProjectOverviewResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let overview = Some(overview::read(&self.db, &grant).await?);
        reply(pb::GetProjectOverviewResponse { overview })
    }

    async fn rotate_push_secret(
        &self,
        request: Request<pb::RotatePushSecretRequest>,
    ) -> Reply<pb::RotatePushSecretResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let project_ref = ProjectRef::from(&grant);
        let url = self.push_webhook_url(&grant);
        let secret = push::secret::PushSecret::generate(&self.push_secret_keys, grant.project_id());
        let rotate = async |tx: &mut Tx| {
            let rotated = push::secret::rotated(project_ref);
            store::push::set_secret(tx, project_ref, &secret.sealed, rotated).await?;
            Ok(pb::RotatePushSecretResponse { url, secret: secret.plain })
        };
        reply(self.db.write(&call, rotate).await?)
    }

    async fn install_push_webhook(
        &self,
        request: Request<pb::InstallPushWebhookRequest>,
    ) -> Reply<pb::InstallPushWebhookResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let url = self.push_webhook_url(&grant);
        let installation = push::install::Installation {
            db: &self.db,
            grant: &grant,
            vault: &self.vault,
            prober: &self.prober,
            secret_keys: &self.push_secret_keys,
            target: &url,
        };
        let response = pb::InstallPushWebhookResponse { url: url.clone() };
        reply(installation.run(&call, response).await?)
    }

    async fn receive_push(
        &self,
        request: Request<pb::ReceivePushRequest>,
    ) -> Reply<pb::ReceivePushResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let delivery = Delivery {
            project_id: message.project_id.parse()?,
            format: message.format(),
            signature: &message.signature,
            body: &message.body,
        };
        let authenticated =
            push::secret::authenticate(&self.db, &self.push_secret_keys, &delivery).await?;
        let push = match parse(&message.event, &message.body) {
            Ok(push) => push,
            Err(Ignored(reason)) => {
                let ignored = reason.to_owned();
                return reply(pb::ReceivePushResponse { ignored, ..Default::default() });
            }
        };
        let project_ref =
            ProjectRef { org_id: authenticated.org_id, project_id: delivery.project_id };
        let deploy = async |tx: &mut Tx| {
            let outcome = push::commands::deploy_push(tx, project_ref, &push).await?;
            Ok(pb::ReceivePushResponse {
                deployments: outcome.deployments,
                waiting: outcome.waiting,
                ignored: outcome.ignored,
            })
        };
        reply(self.db.write(&call, deploy).await?)
    }

    async fn update_project(
        &self,
        request: Request<pb::UpdateProjectRequest>,
    ) -> Reply<pb::UpdateProjectResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let patch = Patch::try_from(message)?;
        let update = async |tx: &mut Tx| {
            let etag = &message.etag;
            let project = commands::update(tx, &grant, patch, etag, &self.vault).await?;
            Ok(pb::UpdateProjectResponse { project: Some((&project).into()) })
        };
        reply(self.db.write(&call, update).await?)
    }

    async fn change_repository(
        &self,
        request: Request<pb::ChangeRepositoryRequest>,
    ) -> Reply<pb::ChangeRepositoryResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let new = NewRepository::from_request(message, self.local_repositories)?;
        let vault = &self.vault;
        let change = async |tx: &mut Tx| {
            let name = &message.confirm_name;
            let etag = &message.etag;
            let project = commands::change_repository(tx, &grant, new, name, etag, vault).await?;
            Ok(pb::ChangeRepositoryResponse { project: Some((&project).into()) })
        };
        reply(self.db.write(&call, change).await?)
    }

    async fn preview_project_deletion(
        &self,
        request: Request<pb::PreviewProjectDeletionRequest>,
    ) -> Reply<pb::PreviewProjectDeletionResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let project = store::project::get(&self.db, &grant).await?;
        let environments = store::environment::list_all(&self.db, &grant).await?;
        let tasks = store::project::count_tasks(&self.db, &grant).await?;
        let blocking = environments.iter().filter(|it| blocks_deletion(it));
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
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        if !message.confirm {
            return Err(Error::invalid("confirm", "must be true: this cannot be undone").into());
        }
        let delete = async |tx: &mut Tx| {
            let started =
                commands::delete(tx, &grant, &message.confirm_name, &message.etag).await?;
            Ok(pb::DeleteProjectResponse {
                project: Some((&started.project).into()),
                destroying_environments: started.destroying_environments,
            })
        };
        reply(self.db.write(&call, delete).await?)
    }

    async fn describe_organization(
        &self,
        request: Request<pb::DescribeOrganizationRequest>,
    ) -> Reply<pb::DescribeOrganizationResponse> {
        let call = Call::of(request)?;
        let org_id = call.message.org_id.parse()?;
        let counts = store::organization::count_resources(&self.db, org_id).await?;
        let count = |count: i64| i32::try_from(count).unwrap_or(i32::MAX);
        reply(pb::DescribeOrganizationResponse {
            projects: count(counts.projects),
            environments: count(counts.environments),
            running_environments: store::organization::running_names(&self.db, org_id).await?,
            running_environment_count: count(counts.running),
            servers: count(counts.servers),
        })
    }
}
