//! gRPC methods of decisions about permissions.

use api::identity::{self as pb, access_service_server::AccessService};
use chassis::{Access, Call, Error, OrgId, Reply, Result, datetime, page::Pager, reply};
use identity_rules::{
    access::{
        decide,
        simulate::{self, Differences},
        subject,
    },
    snapshot::{AccessQuery, Change},
};
use tonic::Request;

use super::{
    audience::Candidates,
    reader::{self, AccessReader, HolderPage},
    wire,
};

/// The service and what its methods need.
pub(crate) struct Rpc {
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) reader: AccessReader,
}

#[tonic::async_trait]
impl AccessService for Rpc {
    async fn check(&self, request: Request<pb::CheckRequest>) -> Reply<pb::CheckResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let account = call.account()?;
        let code = &message.permission;
        let query = wire::query("permission", code, &message.project_id, message.write)?;
        let token = call.consistency_token.as_deref();
        let freshness = wire::freshness(message.consistency.as_ref(), token)?;
        let freshness = self.reader.bounded_by_credential(freshness, account);
        let org_id = message.org_id.parse()?;
        let snapshot =
            self.reader.snapshots.get_for_decision(org_id, freshness, account, &query).await?;
        let decision = decide(snapshot.as_deref(), subject(account), &query, freshness)?;
        reply(wire::check_response(decision, snapshot.as_deref(), account, &query))
    }

    async fn batch_check(
        &self,
        request: Request<pb::BatchCheckRequest>,
    ) -> Reply<pb::BatchCheckResponse> {
        let call = Call::of(request)?;
        let account = call.account()?;
        let token = call.consistency_token.as_deref();
        let freshness = wire::freshness(call.message.consistency.as_ref(), token)?;
        let freshness = self.reader.bounded_by_credential(freshness, account);
        let queries = wire::batch_queries(&call.message.items)?;
        let org_ids = queries.iter().map(|it| it.0);
        let snapshots = self.reader.snapshots_of(org_ids, freshness, account).await?;
        let answer = |(org_id, query): &(OrgId, AccessQuery)| {
            let snapshot = snapshots.get(org_id).and_then(Option::as_deref);
            Ok(wire::batch_answer(&decide(snapshot, subject(account), query, freshness)?))
        };
        let answers = queries.iter().map(answer).collect::<Result<_>>()?;
        reply(pb::BatchCheckResponse { answers })
    }

    async fn list_my_permissions(
        &self,
        request: Request<pb::ListMyPermissionsRequest>,
    ) -> Reply<pb::ListMyPermissionsResponse> {
        let call = Call::of(request)?;
        let authorization = self.access.org(&call, &call.message.org_id).await?;
        let project_id = Some(&call.message.project_id).filter(|it| !it.is_empty());
        let project_id = project_id.map(|it| it.parse()).transpose()?;
        let snapshot = self.reader.decided(&authorization).await?;
        let own = reader::own_permissions(&snapshot, authorization.account(), project_id);
        reply(pb::ListMyPermissionsResponse {
            org_role: wire::org_role_message(own.org_role).into(),
            project_role: wire::project_role_message(own.project_role).into(),
            permissions: own.codes.into_iter().map(str::to_owned).collect(),
            consistency_token: snapshot.token().encode(),
        })
    }

    async fn list_visible_projects(
        &self,
        request: Request<pb::ListVisibleProjectsRequest>,
    ) -> Reply<pb::ListVisibleProjectsResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let authorization = self.access.org(&call, &message.org_id).await?;
        let snapshot = self.reader.decided(&authorization).await?;
        let after = Some(&message.after_project_id).filter(|it| !it.is_empty());
        let after = after.map(|it| it.parse()).transpose()?;
        // 0 means no limit.
        let limit = usize::try_from(message.limit).ok().filter(|it| *it > 0);
        let subject = subject(authorization.account());
        let visible = snapshot.visible_projects(subject, after, limit.unwrap_or(usize::MAX));
        let projects = visible.roles.into_iter().map(wire::project_access).collect();
        reply(pb::ListVisibleProjectsResponse { all: visible.all, projects })
    }

    async fn list_who_can(
        &self,
        request: Request<pb::ListWhoCanRequest>,
    ) -> Reply<pb::ListWhoCanResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let authorization = self.access.org(&call, &message.org_id).await?;
        let query = wire::query("permission", &message.permission, &message.project_id, false)?;
        let filter: [&str; 3] = [&message.org_id, &message.project_id, &message.permission];
        let page = self.pager.page(&call, message.page_size, &message.page_token, &filter)?;
        let snapshot = self.reader.decided(&authorization).await?;
        reader::require_project(&snapshot, &query)?;
        let HolderPage { holders, next_page_token, .. } =
            self.reader.holders(&snapshot, &query, &page).await?;
        let consistency_token = snapshot.token().encode();
        reply(pb::ListWhoCanResponse { holders, next_page_token, consistency_token })
    }

    async fn list_project_holders(
        &self,
        request: Request<pb::ListProjectHoldersRequest>,
    ) -> Reply<pb::ListProjectHoldersResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let project_id = &message.project_id;
        let authorization = self.access.project(&call, &message.org_id, project_id).await?;
        let query = wire::query("permission", "project.metadata.view", project_id, false)?;
        let filter: [&str; 2] = [&message.org_id, project_id];
        let page = self.pager.page(&call, message.page_size, &message.page_token, &filter)?;
        let snapshot = self.reader.decided(&authorization).await?;
        let holders = self.reader.holders(&snapshot, &query, &page).await?;
        reply(wire::project_holders_response(holders, &snapshot))
    }

    async fn explain(&self, request: Request<pb::ExplainRequest>) -> Reply<pb::ExplainResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let authorization = self.access.org(&call, &message.org_id).await?;
        let query = wire::query("permission", &message.permission, &message.project_id, false)?;
        let user_id = match message.user_id.as_str() {
            "" => authorization.account().user_id,
            user_id => user_id.parse()?,
        };
        let snapshot = self.reader.decided(&authorization).await?;
        let explanation = self.reader.explain(&authorization, &snapshot, user_id, &query).await?;
        reply(wire::explain_response(explanation, &snapshot))
    }

    async fn who_could_on(
        &self,
        request: Request<pb::WhoCouldOnRequest>,
    ) -> Reply<pb::WhoCouldOnResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let authorization = self.access.org(&call, &message.org_id).await?;
        let query = wire::query("permission", &message.permission, &message.project_id, false)?;
        let time = message.time.and_then(datetime);
        let time = time.ok_or_else(|| Error::invalid("time", "must be an RFC 3339 time"))?;
        let nanos = time.unix_timestamp_nanos().to_string();
        let filter: [&str; 4] = [&message.org_id, &message.project_id, &message.permission, &nanos];
        let page = self.pager.page(&call, message.page_size, &message.page_token, &filter)?;
        let holders = self.reader.past_holders(&authorization, time, &query, &page).await?;
        reply(holders.map(wire::past_holders_response).unwrap_or_default())
    }

    async fn simulate_access(
        &self,
        request: Request<pb::SimulateAccessRequest>,
    ) -> Reply<pb::SimulateAccessResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let authorization = self.access.org(&call, &message.org_id).await?;
        let filter: [&str; 2] = [&message.org_id, &wire::digest(&message.changes)];
        let page = self.pager.page(&call, message.page_size, &message.page_token, &filter)?;
        let before = self.reader.decided(&authorization).await?;
        let changes = message.changes.iter().map(Change::try_from);
        let after = reader::simulate_changes(&before, changes)?;
        let start = page.after()?.unwrap_or_default();
        let Differences { differences, next } =
            simulate::find_differences(&before, &after, start, page.size());
        let next_page_token = next.map(|it| page.token(&it.to_string())).unwrap_or_default();
        reply(pb::SimulateAccessResponse { differences, next_page_token })
    }

    async fn get_permission_matrix(
        &self,
        request: Request<pb::GetPermissionMatrixRequest>,
    ) -> Reply<pb::GetPermissionMatrixResponse> {
        Call::of(request)?;
        reply(wire::matrix())
    }

    async fn list_audience(
        &self,
        request: Request<pb::ListAudienceRequest>,
    ) -> Reply<pb::ListAudienceResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let query = wire::query("permission", &message.permission, &message.project_id, false)?;
        let org_id = message.org_id.parse()?;
        let candidates = Candidates::try_from(message)?;
        reply(self.reader.audience(org_id, &query, &candidates).await?.into())
    }

    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Reply<pb::AuthenticateResponse> {
        let call = Call::of(request)?;
        if call.message.fresh {
            return reply(wire::authenticate_response(&self.access.reauthenticate(&call).await?));
        }
        reply(wire::authenticate_response(call.account()?))
    }
}
