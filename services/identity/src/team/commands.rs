//! Changes of teams, with the grants that depend on them.

use chassis::{Error, Grant, Result, TeamId, Tx, UserId};
use identity_rules::{
    team::{Draft, Patch, Team},
    types::{ConsistencyToken, Principal, count_i32},
};

use super::store;
use crate::{access, member, organization, project_access};

/// A team after a change, and the version of access that includes the change.
pub(super) struct TeamChange {
    pub(super) team: Team,
    pub(super) token: ConsistencyToken,
}

/// The result of a deleted team.
pub(super) struct TeamRemoval {
    pub(super) removed_members: i32,
    pub(super) removed_grants: i32,
    pub(super) token: ConsistencyToken,
}

/// Creates a team.
pub(super) async fn create(tx: &mut Tx, authorization: &Grant, draft: Draft) -> Result<TeamChange> {
    let org_id = authorization.org_id();
    access::lock(tx, authorization).await?;
    let created = Team::create(org_id, draft, tx.now);
    let token = organization::store::bump_access_version(tx, org_id, &created).await?;
    let team = store::insert(tx, created).await?;
    Ok(TeamChange { team, token })
}

/// Changes name, description or colour of a team.
pub(super) async fn update(
    tx: &mut Tx,
    authorization: &Grant,
    id: TeamId,
    patch: Patch,
    etag: &str,
) -> Result<Team> {
    access::lock(tx, authorization).await?;
    let team = store::find(tx, authorization.org_id(), id).await?;
    match team.update(patch, etag)? {
        Some(changed) => store::update(tx, changed).await,
        None => Ok(team),
    }
}

/// Deletes a team with its memberships and grants (ID-28).
pub(super) async fn delete(tx: &mut Tx, authorization: &Grant, id: TeamId) -> Result<TeamRemoval> {
    let org_id = authorization.org_id();
    let principal = Principal::Team(id);
    access::lock(tx, authorization).await?;
    let team = store::find(tx, org_id, id).await?;
    let members = store::member_ids(tx, org_id, id).await?;
    let grants = project_access::store::list_of_principal(tx, org_id, principal).await?;
    let deleted = team.delete(&members, &grants);
    let token = organization::store::bump_access_version(tx, org_id, &deleted).await?;
    project_access::store::delete_all_of_principal(tx, org_id, principal).await?;
    store::remove_all_members(tx, org_id, id).await?;
    store::delete(tx, deleted).await?;
    let removed_members = count_i32(&members);
    Ok(TeamRemoval { removed_members, removed_grants: count_i32(&grants), token })
}

/// Adds a member to a team. Does nothing if they are in it already (ID-26).
pub(super) async fn add_member(
    tx: &mut Tx,
    authorization: &Grant,
    id: TeamId,
    user_id: UserId,
) -> Result<TeamChange> {
    let org_id = authorization.org_id();
    let organization = access::lock(tx, authorization).await?;
    let team = find_team_for_member(tx, authorization, id, user_id).await?;
    if store::has_member(tx, org_id, id, user_id).await? {
        return Ok(TeamChange { team, token: organization.token() });
    }
    let changed = team.add_member(user_id);
    let token = organization::store::bump_access_version(tx, org_id, &changed).await?;
    store::add_member(tx, org_id, id, user_id).await?;
    Ok(TeamChange { team: tx.emit(changed), token })
}

/// Removes a member from a team. Does nothing if they are not in it.
pub(super) async fn remove_member(
    tx: &mut Tx,
    authorization: &Grant,
    id: TeamId,
    user_id: UserId,
) -> Result<TeamChange> {
    let org_id = authorization.org_id();
    let organization = access::lock(tx, authorization).await?;
    let team = find_team_for_member(tx, authorization, id, user_id).await?;
    if !store::has_member(tx, org_id, id, user_id).await? {
        return Ok(TeamChange { team, token: organization.token() });
    }
    let changed = team.remove_member(user_id);
    let token = organization::store::bump_access_version(tx, org_id, &changed).await?;
    store::remove_member(tx, org_id, id, user_id).await?;
    Ok(TeamChange { team: tx.emit(changed), token })
}

/// Returns the team, if it and the member both belong to the organization (ID-31).
async fn find_team_for_member(
    tx: &mut Tx,
    authorization: &Grant,
    id: TeamId,
    user_id: UserId,
) -> Result<Team> {
    let org_id = authorization.org_id();
    let team = store::find(tx, org_id, id).await?;
    let member = member::store::find(tx, org_id, user_id).await?;
    member.ok_or(Error::NotFound("member"))?;
    Ok(team)
}
