//! The gRPC surface of decisions.

use std::sync::Arc;

use api::identity::{self as pb, access_service_server::AccessService};
use chassis::{
    Access, Call, Db, Error, OrgId, Reply, Result, UserId, moment,
    page::{Page, Pager},
    reply, timestamp,
};
use tonic::Request;
use uuid::Uuid;

use super::{
    Freshness, Snapshots, audience, decision,
    explain::{self, Words},
    simulate::{self, Differences},
    store, subject, wire,
};
use crate::{
    organization::wire::consistency_token,
    policy::Permission,
    snapshot::{Change, Snapshot, Verdict, Wish},
};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) snapshots: Snapshots,
}

#[tonic::async_trait]
impl AccessService for Rpc {
    async fn check(&self, request: Request<pb::CheckRequest>) -> Reply<pb::CheckResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let wish = wire::wish("permission", &it.permission, &it.project_id, it.write)?;
        let freshness = wire::freshness(it.consistency.as_ref(), call.known.as_deref())?;
        let snapshot = self.snapshots.get(it.org_id.parse()?, freshness).await?;
        let user_id = call.account()?.user_id;
        let subject = subject(call.account()?);
        let decision = decision(snapshot.as_deref(), subject, &wish, freshness)?;
        let shown = snapshot.as_deref().filter(|_| decision.visible);
        let org_role = shown.and_then(|it| it.org_role(user_id));
        let project_role = shown.and_then(|it| it.project_role(user_id, wish.project_id?));
        reply(pb::CheckResponse {
            allowed: decision.allowed,
            visible: decision.visible,
            org_role: org_role.map_or(pb::OrgRole::Unspecified, Into::into).into(),
            project_role: project_role.map_or(pb::ProjectRole::Unspecified, Into::into).into(),
            reason: wire::reason(&decision).into(),
            consistency_token: decision.token,
        })
    }

    async fn batch_check(
        &self,
        request: Request<pb::BatchCheckRequest>,
    ) -> Reply<pb::BatchCheckResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let freshness = wire::freshness(it.consistency.as_ref(), call.known.as_deref())?;
        let mut org_ids = vec![];
        let mut wishes = vec![];
        for (i, it) in it.items.iter().enumerate() {
            let field = || format!("items[{i}].permission");
            wishes.push(wire::wish(&field(), &it.permission, &it.project_id, it.write)?);
            org_ids.push(it.org_id.parse::<OrgId>()?);
        }
        let mut distinct = org_ids.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let snapshots = self.snapshots.get_all(&distinct, freshness).await?;
        let account = call.account()?;
        let answer = |(wish, org_id): (&Wish, &OrgId)| {
            let place = distinct.binary_search(org_id).ok();
            let snapshot = place.and_then(|it| snapshots[it].as_deref());
            Ok(wire::answer(&decision(snapshot, subject(account), wish, freshness)?))
        };
        let answers = wishes.iter().zip(&org_ids).map(answer).collect::<Result<_>>()?;
        reply(pb::BatchCheckResponse { answers })
    }

    async fn list_my_permissions(
        &self,
        request: Request<pb::ListMyPermissionsRequest>,
    ) -> Reply<pb::ListMyPermissionsResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.org(&call, &it.org_id).await?;
        let snapshot = self.newest(grant.org_id()).await?;
        let project_id = if it.project_id.is_empty() { None } else { Some(it.project_id.parse()?) };
        let (account, user_id) = (grant.account(), grant.account().user_id);
        let held = |it: &Permission| {
            let write = account.key.as_ref().is_some_and(|it| it.full);
            let wish = Wish { permission: *it, project_id, write };
            snapshot.verdict(subject(account), &wish) == Verdict::Allowed
        };
        let org_role = snapshot.org_role(user_id);
        let project_role = project_id.and_then(|it| snapshot.project_role(user_id, it));
        reply(pb::ListMyPermissionsResponse {
            org_role: org_role.map_or(pb::OrgRole::Unspecified, Into::into).into(),
            project_role: project_role.map_or(pb::ProjectRole::Unspecified, Into::into).into(),
            permissions: Permission::all().filter(held).map(|it| it.code().to_owned()).collect(),
            consistency_token: consistency_token(snapshot.org_id, snapshot.version),
        })
    }

    async fn list_visible_projects(
        &self,
        request: Request<pb::ListVisibleProjectsRequest>,
    ) -> Reply<pb::ListVisibleProjectsResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let snapshot = self.newest(grant.org_id()).await?;
        let it = &call.message;
        let after = Some(&it.after_project_id).filter(|it| !it.is_empty());
        let after = after.map(|it| it.parse()).transpose()?;
        let (all, mut projects) = snapshot.visible(subject(grant.account()), after);
        if it.limit > 0 {
            projects.truncate(usize::try_from(it.limit).unwrap_or(usize::MAX));
        }
        let access = |(id, role)| pb::ProjectAccess {
            project_id: String::from(id),
            role: pb::ProjectRole::from(role).into(),
        };
        let projects = projects.into_iter().map(access).collect();
        reply(pb::ListVisibleProjectsResponse { all, projects })
    }

    async fn list_who_can(
        &self,
        request: Request<pb::ListWhoCanRequest>,
    ) -> Reply<pb::ListWhoCanResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.org(&call, &it.org_id).await?;
        let wish = wire::wish("permission", &it.permission, &it.project_id, false)?;
        let filter: [&str; 3] = [&it.org_id, &it.project_id, &it.permission];
        let page = self.pager.page(&call, it.page_size, &it.page_token, &filter)?;
        let snapshot = self.newest(grant.org_id()).await?;
        known(&snapshot, &wish)?;
        let (users, next_page_token) = holders(&snapshot, &wish, &page)?;
        let words = self.words(&snapshot, &users, &wish).await?;
        let holder = |it: &UserId| explain::holder(&snapshot, &words, *it, &wish);
        reply(pb::ListWhoCanResponse {
            holders: users.iter().map(holder).collect(),
            next_page_token,
            consistency_token: consistency_token(snapshot.org_id, snapshot.version),
        })
    }

    async fn list_project_holders(
        &self,
        request: Request<pb::ListProjectHoldersRequest>,
    ) -> Reply<pb::ListProjectHoldersResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.project(&call, &it.org_id, &it.project_id).await?;
        let wish = wire::wish("permission", "project.metadata.view", &it.project_id, false)?;
        let filter: [&str; 2] = [&it.org_id, &it.project_id];
        let page = self.pager.page(&call, it.page_size, &it.page_token, &filter)?;
        let snapshot = self.newest(grant.org_id()).await?;
        let (users, next_page_token) = holders(&snapshot, &wish, &page)?;
        let words = self.words(&snapshot, &users, &wish).await?;
        let holder = |it: &UserId| explain::holder(&snapshot, &words, *it, &wish);
        reply(pb::ListProjectHoldersResponse {
            emails: users.iter().map(|it| words.name(it.0)).collect(),
            holders: users.iter().map(holder).collect(),
            next_page_token,
            consistency_token: consistency_token(snapshot.org_id, snapshot.version),
        })
    }

    async fn explain(&self, request: Request<pb::ExplainRequest>) -> Reply<pb::ExplainResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.org(&call, &it.org_id).await?;
        let wish = wire::wish("permission", &it.permission, &it.project_id, false)?;
        let snapshot = self.newest(grant.org_id()).await?;
        let me = grant.account().user_id;
        let about: UserId = if it.user_id.is_empty() { me } else { it.user_id.parse()? };
        if about != me {
            let view = wire::wish("permission", "org.access.view", "", false)?;
            if snapshot.verdict(subject(grant.account()), &view) != Verdict::Allowed {
                return Err(Error::Denied { permission: "org.access.view".to_owned() }.into());
            }
        }
        let words = self.words(&snapshot, &[about], &wish).await?;
        let mut answer = explain::explain(&snapshot, &words, about, &wish);
        answer.consistency_token = consistency_token(snapshot.org_id, snapshot.version);
        reply(answer)
    }

    async fn who_could_on(
        &self,
        request: Request<pb::WhoCouldOnRequest>,
    ) -> Reply<pb::WhoCouldOnResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.org(&call, &it.org_id).await?;
        let wish = wire::wish("permission", &it.permission, &it.project_id, false)?;
        let at = it.time.and_then(moment);
        let at = at.ok_or_else(|| Error::invalid("time", "must be a moment"))?;
        let moment = at.unix_timestamp_nanos().to_string();
        let filter: [&str; 4] = [&it.org_id, &it.project_id, &it.permission, &moment];
        let page = self.pager.page(&call, it.page_size, &it.page_token, &filter)?;
        let past = store::load_past(&self.db, grant.org_id(), at).await?;
        // Before its first version there was nobody.
        let Some(past) = past else { return reply(pb::WhoCouldOnResponse::default()) };
        let (users, next_page_token) = holders(&past, &wish, &page)?;
        let named = explain::named(&past, &users, &wish);
        let names = store::names(&self.db, grant.org_id(), &named).await?;
        let words = Words { names, ..Words::default() };
        let holder = |it: &UserId| explain::holder(&past, &words, *it, &wish);
        reply(pb::WhoCouldOnResponse {
            holders: users.iter().map(holder).collect(),
            next_page_token,
            access_version: past.version,
        })
    }

    async fn simulate_access(
        &self,
        request: Request<pb::SimulateAccessRequest>,
    ) -> Reply<pb::SimulateAccessResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.org(&call, &it.org_id).await?;
        let filter: [&str; 2] = [&it.org_id, &wire::digest(&it.changes)];
        let page = self.pager.page(&call, it.page_size, &it.page_token, &filter)?;
        let before = self.newest(grant.org_id()).await?;
        let mut after = Snapshot::clone(&before);
        for change in &it.changes {
            let change = Change::try_from(change)?;
            after.possible(change)?;
            after.apply(change);
        }
        let from = page.after()?.unwrap_or_default();
        let Differences { found, next } = simulate::differences(&before, &after, from, page.size());
        let next_page_token = next.map(|it| page.token(&it.to_string())).unwrap_or_default();
        reply(pb::SimulateAccessResponse { differences: found, next_page_token })
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
        let it = &call.message;
        let wish = wire::wish("permission", &it.permission, &it.project_id, false)?;
        let snapshot = self.snapshots.get(it.org_id.parse()?, Freshness::Newest(None)).await?;
        reply(audience::list(&self.db, snapshot.as_deref(), &wish, it).await?)
    }

    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Reply<pb::AuthenticateResponse> {
        let call = Call::of(request)?;
        let newest = if call.message.fresh { Some(self.access.still(&call).await?) } else { None };
        let it = newest.as_ref().map_or_else(|| call.account(), Ok)?;
        let key = it.key.as_ref().map(|it| pb::KeyPower {
            org_id: it.org_id.into(),
            project_id: it.project_id.map(String::from).unwrap_or_default(),
            full: it.full,
            name: it.name.clone(),
        });
        reply(pb::AuthenticateResponse {
            user_id: it.user_id.into(),
            email: it.email.clone(),
            display_name: it.display_name.clone(),
            email_verified: it.email_verified,
            credential_id: it.credential_id.to_string(),
            key,
            authenticate_time: it.authenticated_at.map(timestamp),
        })
    }
}

/// A project that is asked about must be of the organization.
fn known(snapshot: &Snapshot, wish: &Wish) -> Result<()> {
    match wish.project_id {
        Some(it) if !snapshot.projects.contains_key(&it) => Err(Error::NotFound("project")),
        _ => Ok(()),
    }
}

/// A page of the members who have a permission, and the token of the next one.
fn holders(snapshot: &Snapshot, wish: &Wish, page: &Page) -> Result<(Vec<UserId>, String)> {
    let after = page.after::<Uuid>()?.map(UserId);
    let rest = snapshot.holders(wish).into_iter().filter(|it| Some(*it) > after);
    let rows = rest.take(page.size() + 1).collect();
    Ok(page.cut(rows, |it| String::from(*it)))
}

impl Rpc {
    async fn newest(&self, org_id: OrgId) -> Result<Arc<Snapshot>> {
        // The grant that led here has just been decided from a version that was the newest then.
        let snapshot = self.snapshots.get(org_id, Freshness::Newest(None)).await?;
        snapshot.ok_or(Error::NotFound(OrgId::NOUN))
    }

    /// Names and events for sentences about some members.
    async fn words(&self, snapshot: &Snapshot, users: &[UserId], wish: &Wish) -> Result<Words> {
        let named = explain::named(snapshot, users, wish);
        Ok(Words {
            names: store::names(&self.db, snapshot.org_id, &named).await?,
            origins: store::origins(&self.db, snapshot.org_id, &named).await?,
        })
    }
}
