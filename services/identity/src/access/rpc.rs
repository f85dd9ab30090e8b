//! The gRPC surface of decisions.

use api::identity::{self as pb, access_service_server::AccessService};
use chassis::{Access, Call, Db, Error, Reply, reply};
use tonic::Request;

use super::facts;
use crate::{
    policy::{OrgRole, ProjectRole},
    project_access::store,
};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
}

#[tonic::async_trait]
impl AccessService for Rpc {
    async fn check(&self, request: Request<pb::CheckRequest>) -> Reply<pb::CheckResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let project_id = if it.project_id.is_empty() { None } else { Some(it.project_id.parse()?) };
        let (facts, token) =
            facts(&self.db, it.org_id.parse()?, call.account()?.user_id, project_id).await?;
        let verdict = facts.verdict(&it.permission);
        let verdict = verdict.ok_or_else(|| Error::invalid("permission", "is no permission"))?;
        let org_role = facts.org_role.map_or(pb::OrgRole::Unspecified, Into::into);
        let project_role = facts.project_role().map_or(pb::ProjectRole::Unspecified, Into::into);
        reply(pb::CheckResponse {
            allowed: verdict.allowed,
            visible: verdict.visible,
            org_role: org_role.into(),
            project_role: project_role.into(),
            // Who is no member learns nothing, not even a version.
            consistency_token: if facts.org_role.is_some() { token } else { String::new() },
        })
    }

    async fn list_visible_projects(
        &self,
        request: Request<pb::ListVisibleProjectsRequest>,
    ) -> Reply<pb::ListVisibleProjectsResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let (org_id, user_id) = (grant.org_id(), grant.account().user_id);
        let (facts, _) = facts(&self.db, org_id, user_id, None).await?;
        let roles = match facts.org_role {
            None => return Err(Error::NotFound("organization").into()),
            Some(OrgRole::Owner) => {
                let all = store::all(&self.db, org_id).await?;
                all.into_iter().map(|it| (it, ProjectRole::Admin)).collect()
            }
            Some(_) => store::roles_of(&self.db, org_id, user_id).await?,
        };
        let access = |(id, role): (_, ProjectRole)| pb::ProjectAccess {
            project_id: String::from(id),
            role: pb::ProjectRole::from(role).into(),
        };
        reply(pb::ListVisibleProjectsResponse {
            // ID-38: an Admin sees that every project is there.
            all: facts.org_role >= Some(OrgRole::Admin),
            projects: roles.into_iter().map(access).collect(),
        })
    }

    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Reply<pb::AuthenticateResponse> {
        let call = Call::of(request)?;
        let it = call.account()?;
        reply(pb::AuthenticateResponse {
            user_id: it.user_id.into(),
            email: it.email.clone(),
            display_name: it.display_name.clone(),
            email_verified: it.email_verified,
            credential_id: it.credential_id.to_string(),
        })
    }
}
