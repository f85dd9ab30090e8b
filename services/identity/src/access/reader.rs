//! Reads about access: permissions of the caller, holders of a permission now and in the past, explanations,
//! and effects of simulated changes.

use std::{collections::BTreeMap, sync::Arc};

use api::identity as pb;
use chassis::{Account, Db, Error, Grant, OrgId, ProjectId, Result, UserId, page::Page};
use identity_rules::{
    access::{
        explain::{self, Explanation, Labels},
        freshness::Freshness,
        known_permission, subject,
    },
    policy::{OrgRole, Permission, ProjectRole},
    snapshot::{AccessQuery, Change, Snapshot, Verdict},
    types::ConsistencyToken,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    SnapshotCache,
    audience::{self, Audience, Candidates},
    store,
};
use crate::credential::CredentialCache;

/// Reads snapshots, and the names and events that explanations mention.
pub(crate) struct AccessReader {
    pub(crate) db: Db,
    pub(crate) snapshots: SnapshotCache,
    pub(crate) credentials: CredentialCache,
}

/// The roles and permissions of a caller.
pub(super) struct OwnPermissions {
    pub(super) org_role: Option<OrgRole>,
    pub(super) project_role: Option<ProjectRole>,
    pub(super) codes: Vec<&'static str>,
}

/// A page of the members who have a permission.
pub(super) struct HolderPage {
    pub(super) holders: Vec<pb::Holder>,
    /// Their addresses, in the same order.
    pub(super) emails: Vec<String>,
    pub(super) next_page_token: String,
    /// The version of the snapshot that the page was read from.
    pub(super) access_version: i64,
}

impl AccessReader {
    /// Returns the snapshot that an authorization was decided on, or a newer one.
    pub(super) async fn decided(&self, authorization: &Grant) -> Result<Arc<Snapshot>> {
        let not_found = || Error::NotFound(OrgId::NOUN);
        let token = ConsistencyToken::parse(authorization.consistency_token());
        self.snapshots.get_decided(token.ok_or_else(not_found)?).await?.ok_or_else(not_found)
    }

    /// Returns the freshness for a decision of a caller who requires `freshness`: the newest state, if the
    /// cached copy of the credential is older than the required maximum.
    pub(super) fn bounded_by_credential(
        &self,
        freshness: Freshness,
        caller: &Account,
    ) -> Freshness {
        let Freshness::MaxAge(max) = freshness else { return freshness };
        let credential = self.credentials.get(&caller.credential_id);
        let is_recent = credential.is_some_and(|it| it.verified_at.elapsed() < max);
        if is_recent { freshness } else { Freshness::Newest(None) }
    }

    /// Returns the snapshots of several organizations, without duplicates, and verifies the credential of
    /// `caller` unless all are cached and fresh enough.
    pub(super) async fn snapshots_of(
        &self,
        org_ids: impl Iterator<Item = OrgId>,
        freshness: Freshness,
        caller: &Account,
    ) -> Result<BTreeMap<OrgId, Option<Arc<Snapshot>>>> {
        let mut org_ids: Vec<_> = org_ids.collect();
        org_ids.sort_unstable();
        org_ids.dedup();
        let snapshots = self.snapshots.get_all(&org_ids, freshness, caller).await?;
        Ok(org_ids.into_iter().zip(snapshots).collect())
    }

    /// Returns a page of the members who have a permission.
    pub(super) async fn holders(
        &self,
        snapshot: &Snapshot,
        query: &AccessQuery,
        page: &Page,
    ) -> Result<HolderPage> {
        let (users, next_page_token) = holders_of(snapshot, query, page)?;
        let labels = self.labels(snapshot, &users, query).await?;
        Ok(holder_page(snapshot, query, &users, &labels, next_page_token))
    }

    /// Returns a page of the members who had a permission at a time in the past; `None` if the organization
    /// did not exist then.
    pub(super) async fn past_holders(
        &self,
        authorization: &Grant,
        time: OffsetDateTime,
        query: &AccessQuery,
        page: &Page,
    ) -> Result<Option<HolderPage>> {
        let org_id = authorization.org_id();
        let newest = self.decided(authorization).await?;
        let snapshot = self.snapshots.get_past(&newest, time).await?;
        let Some(snapshot) = snapshot else { return Ok(None) };
        let (users, next_page_token) = holders_of(&snapshot, query, page)?;
        let ids = explain::mentioned_ids(&snapshot, &users, query);
        let names = store::names(&self.db, org_id, &ids).await?;
        // Without origins: those of past facts are not loaded.
        let labels = Labels { names, ..Labels::default() };
        Ok(Some(holder_page(&snapshot, query, &users, &labels, next_page_token)))
    }

    /// Explains the decision about a person. Callers may always ask about themselves; about others, they
    /// need the permission to see the access of the organization.
    pub(super) async fn explain(
        &self,
        authorization: &Grant,
        snapshot: &Snapshot,
        user_id: UserId,
        query: &AccessQuery,
    ) -> Result<Explanation> {
        if user_id != authorization.account().user_id {
            require_access_view(snapshot, authorization.account())?;
        }
        let labels = self.labels(snapshot, &[user_id], query).await?;
        Ok(explain::explain(snapshot, &labels, user_id, query))
    }

    /// Returns the possible recipients of a notification.
    pub(super) async fn audience(
        &self,
        org_id: OrgId,
        query: &AccessQuery,
        candidates: &Candidates,
    ) -> Result<Audience> {
        let snapshot = self.snapshots.get(org_id, Freshness::Newest(None), None).await?;
        audience::find(&self.db, org_id, snapshot.as_deref(), query, candidates).await
    }

    /// Returns the names and events that explanations about these members mention.
    async fn labels(
        &self,
        snapshot: &Snapshot,
        users: &[UserId],
        query: &AccessQuery,
    ) -> Result<Labels> {
        let ids = explain::mentioned_ids(snapshot, users, query);
        Ok(Labels {
            names: store::names(&self.db, snapshot.org_id, &ids).await?,
            origins: store::origins(&self.db, snapshot.org_id, &ids).await?,
        })
    }
}

/// Returns the roles and permissions of the caller. For an API key that may write these are the permissions
/// for writes, which are fewer.
pub(super) fn own_permissions(
    snapshot: &Snapshot,
    account: &Account,
    project_id: Option<ProjectId>,
) -> OwnPermissions {
    let write = account.key.as_ref().is_some_and(|it| it.full);
    let is_allowed = |permission: &Permission| {
        let query = AccessQuery { permission: *permission, project_id, write };
        snapshot.verdict(subject(account), &query) == Verdict::Allowed
    };
    OwnPermissions {
        org_role: snapshot.org_role(account.user_id),
        project_role: project_id.and_then(|it| snapshot.project_role(account.user_id, it)),
        codes: Permission::all().filter(is_allowed).map(|it| it.code()).collect(),
    }
}

/// Returns a copy of a snapshot with changes applied; refuses changes that their methods would refuse.
pub(super) fn simulate_changes(
    snapshot: &Snapshot,
    changes: impl Iterator<Item = Result<Change>>,
) -> Result<Snapshot> {
    let mut simulated = snapshot.clone();
    for change in changes {
        let change = change?;
        simulated.validate(change)?;
        simulated.apply(change);
    }
    Ok(simulated)
}

/// Refuses a project that does not belong to the organization.
pub(super) fn require_project(snapshot: &Snapshot, query: &AccessQuery) -> Result<()> {
    match query.project_id {
        Some(it) if !snapshot.projects.contains_key(&it) => Err(Error::NotFound("project")),
        _ => Ok(()),
    }
}

/// Refuses callers who may not see the access of others.
fn require_access_view(snapshot: &Snapshot, account: &Account) -> Result<()> {
    let code = "org.access.view";
    let permission = known_permission(code)?;
    let query = AccessQuery { permission, project_id: None, write: false };
    if snapshot.verdict(subject(account), &query) != Verdict::Allowed {
        return Err(Error::Denied { permission: code.to_owned() });
    }
    Ok(())
}

/// Returns a page of the ids of members who have a permission, and the token of the next page.
fn holders_of(
    snapshot: &Snapshot,
    query: &AccessQuery,
    page: &Page,
) -> Result<(Vec<UserId>, String)> {
    let after = page.after::<Uuid>()?.map(UserId);
    // One more than fits on the page shows that there is a next page.
    let rows = snapshot.holders(query, after, page.size() + 1);
    Ok(page.paginate(rows, |it| String::from(*it)))
}

fn holder_page(
    snapshot: &Snapshot,
    query: &AccessQuery,
    users: &[UserId],
    labels: &Labels,
    next_page_token: String,
) -> HolderPage {
    let holder = |user_id: &UserId| explain::holder(snapshot, labels, *user_id, query);
    HolderPage {
        holders: users.iter().map(holder).collect(),
        emails: users.iter().map(|it| labels.name(it.0)).collect(),
        next_page_token,
        access_version: snapshot.version,
    }
}
