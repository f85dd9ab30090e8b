//! Changes of organizations, and reads that also need other services.

use api::identity as pb;
use chassis::{Account, Db, Error, Grant, OrgId, Result, Tx, UserId, call::Context};
use identity_rules::organization::{
    Draft, Organization, Patch, Plan, RESTORE_PERIOD, Subscription,
};
use time::OffsetDateTime;

use super::{peers::Peers, store};
use crate::{access, api_key, member};

/// Names of running environments in a deletion preview at most; their number is given in full.
const BLOCKERS_MAX: usize = 20;

/// The confirmation of an irreversible change.
pub(super) struct Confirmation<'a> {
    /// The typed name of the organization; empty if the caller relies on a recent authentication.
    pub(super) name: &'a str,
}

/// The current use of one limit of the plan.
pub(crate) struct Usage {
    pub(crate) key: &'static str,
    pub(crate) used: i64,
    /// `None` if the plan does not limit it.
    pub(crate) limit: Option<i64>,
}

/// Creates an organization of the caller.
pub(super) async fn create(
    tx: &mut Tx,
    creator: &Account,
    mut draft: Draft,
    created_max: i64,
) -> Result<Organization> {
    if draft.is_slug_derived {
        draft.slug = unused_slug(tx, &draft.slug).await?;
    }
    let created = store::count_created_by(tx, creator.user_id).await?;
    let organization = Organization::create(creator, draft, created, created_max, tx.now)?;
    let id = store::insert(tx, organization).await?.0.id;
    // Read again, with the limits of its plan.
    store::lock(tx, id).await
}

/// Returns the slug, with a random suffix if it is taken.
async fn unused_slug(tx: &mut Tx, slug: &str) -> Result<String> {
    let mut candidate = slug.to_owned();
    while store::is_slug_taken(tx, &candidate).await? {
        let random = chassis::key::random();
        let suffix = u16::from_be_bytes([random[0], random[1]]);
        candidate = format!("{slug}-{suffix:04x}");
    }
    Ok(candidate)
}

/// Changes the plan of a locked organization.
pub(crate) async fn change_plan(
    tx: &mut Tx,
    organization: Organization,
    plan: Plan,
    etag: &str,
) -> Result<Organization> {
    let changed = organization.change_plan(plan, etag)?;
    store::bump_access_version(tx, changed.state().id, &changed).await?;
    store::update(tx, changed).await
}

/// Changes name or slug.
pub(super) async fn update(
    tx: &mut Tx,
    authorization: &Grant,
    patch: Patch,
    etag: &str,
) -> Result<Organization> {
    let organization = access::lock(tx, authorization).await?;
    match organization.update(patch, etag)? {
        Some(changed) => store::update(tx, changed).await,
        None => Ok(organization),
    }
}

/// Makes another member the Owner (ID-5).
pub(super) async fn transfer_ownership(
    tx: &mut Tx,
    authorization: &Grant,
    new_owner_id: UserId,
    confirmation: Confirmation<'_>,
    etag: &str,
) -> Result<Organization> {
    let org_id = authorization.org_id();
    let organization = access::lock(tx, authorization).await?;
    organization.require_confirmation(confirmation.name, authorization.account(), tx.now)?;
    let from = member::store::find(tx, org_id, organization.owner_id).await?;
    let from = from.ok_or(Error::NotFound("member"))?;
    let to = member::store::find(tx, org_id, new_owner_id).await?;
    let changed = organization.transfer(from, to, etag)?;
    store::bump_access_version(tx, org_id, &changed).await?;
    store::transfer(tx, changed).await
}

/// Returns the data that a deletion would remove, and the running environments that block it (ID-34).
pub(super) async fn preview_deletion(
    db: &Db,
    peers: &Peers,
    context: &Context,
    org_id: OrgId,
) -> Result<pb::DeletionPreview> {
    let organization = store::get(db, org_id).await?;
    let summary = peers.project_summary(context, org_id).await?;
    let pending_invitations = peers.pending_invitations(context, org_id).await?;
    let to_i32 = |count: i64| i32::try_from(count).unwrap_or(i32::MAX);
    let blockers = summary.running_environment_names.iter().take(BLOCKERS_MAX);
    let blockers = blockers.map(|name| format!("the environment {name} is running or deploying"));
    Ok(pb::DeletionPreview {
        members: to_i32(organization.members),
        teams: to_i32(store::count_teams(db, org_id).await?),
        projects: summary.projects,
        environments: summary.environments,
        running_environments: summary.running_environments,
        pending_invitations,
        api_keys: to_i32(api_key::store::count_active(db, org_id).await?),
        blockers: blockers.collect(),
    })
}

/// Deletes the organization, and starts the cleanup in the other services, which react to the event.
/// Returns the time of the purge.
pub(super) async fn delete(
    tx: &mut Tx,
    authorization: &Grant,
    preview: pb::DeletionPreview,
    confirmation: Confirmation<'_>,
    cascade: bool,
) -> Result<OffsetDateTime> {
    let organization = access::lock(tx, authorization).await?;
    organization.require_confirmation(confirmation.name, authorization.account(), tx.now)?;
    let deleted = organization.delete(preview, cascade, tx.now)?;
    store::bump_access_version(tx, authorization.org_id(), &deleted).await?;
    store::start_cleanup(tx, deleted.state()).await?;
    store::update(tx, deleted).await?;
    Ok(tx.now + RESTORE_PERIOD)
}

/// Restores a deleted organization, under another slug if one is given.
pub(super) async fn restore(
    tx: &mut Tx,
    authorization: &Grant,
    slug: Option<String>,
) -> Result<Organization> {
    let organization = access::lock(tx, authorization).await?;
    let restored = organization.restore(slug, tx.now)?;
    store::bump_access_version(tx, authorization.org_id(), &restored).await?;
    store::cancel_cleanup(tx, authorization.org_id()).await?;
    store::update(tx, restored).await
}

/// Returns the use of every limit of the plan.
pub(crate) async fn usage(
    db: &Db,
    peers: &Peers,
    context: &Context,
    organization: &Organization,
) -> Result<Vec<Usage>> {
    let org_id = organization.id;
    let summary = peers.project_summary(context, org_id).await?;
    let api_keys = api_key::store::count_active(db, org_id).await?;
    let teams = store::count_teams(db, org_id).await?;
    let used = [
        ("members", organization.members),
        ("projects", organization.projects),
        ("environments", summary.environments.into()),
        ("servers", summary.servers.into()),
        ("api_keys", api_keys),
        ("teams", teams),
    ];
    let usage = |(key, used)| Usage { key, used, limit: organization.limits.max(key) };
    Ok(used.into_iter().map(usage).collect())
}

/// Sets the state of the subscription of a locked organization.
pub(crate) async fn set_subscription(
    tx: &mut Tx,
    organization: Organization,
    subscription: Subscription,
) -> Result<Organization> {
    let Some(changed) = organization.set_subscription(subscription) else {
        return Ok(organization);
    };
    store::bump_access_version(tx, organization.id, &changed).await?;
    store::update(tx, changed).await
}
