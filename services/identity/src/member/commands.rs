//! Changes of memberships, with the teams, grants and API keys that depend on them.

use std::collections::BTreeSet;

use chassis::{
    Account, Changed, Db, Error, Grant, OrgId, ProjectId, Result, TeamId, Tx, UserId, email,
};
use identity_rules::{
    member::{Admission, Member, MemberAssociations, PromisedAccess, Refused},
    policy::OrgRole,
    project_access::ProjectGrant,
    types::{ConsistencyToken, Principal, ProjectRef},
};

use super::store;
use crate::{access, api_key, organization, project_access, team};

/// A member after a change, and the version of access that includes the change.
pub(super) struct MemberChange {
    pub(super) member: Member,
    pub(super) token: ConsistencyToken,
}

/// The result of an ended membership.
pub(super) struct MemberRemoval {
    pub(super) associations: MemberAssociations,
    pub(super) token: ConsistencyToken,
}

/// The contents of an invitation that are checked before it is created.
pub(super) struct InvitationTerms {
    pub(super) org_id: OrgId,
    pub(super) emails: Vec<String>,
    pub(super) project_ids: BTreeSet<ProjectId>,
    pub(super) team_ids: BTreeSet<TeamId>,
}

/// The result of checked invitation terms.
pub(super) struct PreparedInvitation {
    pub(super) org_name: String,
    /// Addresses of the invitation that belong to members already.
    pub(super) member_emails: Vec<String>,
}

/// Changes a member's role in the organization.
pub(super) async fn change_role(
    tx: &mut Tx,
    authorization: &Grant,
    user_id: UserId,
    role: OrgRole,
) -> Result<MemberChange> {
    let organization = access::lock(tx, authorization).await?;
    let changer = require(tx, organization.id, authorization.account().user_id).await?;
    let member = require(tx, organization.id, user_id).await?;
    let Some(changed) = member.change_role(&changer, role)? else {
        return Ok(MemberChange { member, token: organization.token() });
    };
    let token = organization::store::bump_access_version(tx, organization.id, &changed).await?;
    let member = store::update_role(tx, changed).await?;
    Ok(MemberChange { member, token })
}

/// Removes another member.
pub(super) async fn remove(
    tx: &mut Tx,
    authorization: &Grant,
    user_id: UserId,
) -> Result<MemberRemoval> {
    let organization = access::lock(tx, authorization).await?;
    let member = require(tx, organization.id, user_id).await?;
    let associations = load_associations(tx, &member).await?;
    let removed = member.remove(authorization, &associations)?;
    let token = end_membership(tx, removed).await?;
    Ok(MemberRemoval { associations, token })
}

/// Ends the caller's own membership.
pub(super) async fn leave(tx: &mut Tx, authorization: &Grant) -> Result<ConsistencyToken> {
    let organization = access::lock(tx, authorization).await?;
    let member = require(tx, organization.id, authorization.account().user_id).await?;
    let associations = load_associations(tx, &member).await?;
    end_membership(tx, member.leave(&associations)?).await
}

/// Ends a membership of an account that is being deleted. Does nothing if there is none.
pub(crate) async fn leave_deleted_account(
    tx: &mut Tx,
    org_id: OrgId,
    user_id: UserId,
) -> Result<()> {
    organization::store::lock(tx, org_id).await?;
    if let Some(member) = store::find(tx, org_id, user_id).await? {
        let associations = load_associations(tx, &member).await?;
        end_membership(tx, member.leave(&associations)?).await?;
    }
    Ok(())
}

/// Checks an invitation before it is created: capacity of the plan, projects and teams. Only reads: the
/// invitation service has checked the inviter's permission, and a new member is checked again when they
/// accept.
pub(super) async fn prepare_invitation(
    db: &Db,
    inviter: &Account,
    terms: &InvitationTerms,
) -> Result<PreparedInvitation> {
    let org_id = terms.org_id;
    store::get(db, org_id, inviter.user_id).await?;
    let organization = organization::store::get(db, org_id).await?;
    organization.require_member_capacity()?;
    let member_emails = filter_member_emails(db, org_id, &terms.emails).await?;
    if !terms.project_ids.is_empty() {
        let existing = project_access::store::read_project_ids(db, org_id).await?;
        if !terms.project_ids.iter().all(|it| existing.contains(it)) {
            return Err(Error::NotFound(ProjectId::NOUN));
        }
    }
    if !terms.team_ids.is_empty() {
        let team_ids: Vec<_> = terms.team_ids.iter().map(|it| it.0).collect();
        let existing = team::store::count(db, org_id, &team_ids).await?;
        if usize::try_from(existing).ok() != Some(team_ids.len()) {
            return Err(Error::NotFound(TeamId::NOUN));
        }
    }
    Ok(PreparedInvitation { org_name: organization.name, member_emails })
}

/// Makes an invited account a member, with its teams and grants, under the organization's lock (IN-15). A
/// repeated acceptance of the same invitation returns the membership that the first one created.
pub(super) async fn admit(
    tx: &mut Tx,
    org_id: OrgId,
    invitee: &Account,
    admission: &Admission,
) -> Result<MemberChange> {
    let organization = organization::store::lock(tx, org_id).await?;
    organization.require_writable()?;
    if let Some(member) = store::find(tx, org_id, invitee.user_id).await? {
        if member.invitation_id != Some(admission.invitation_id) {
            return Err(Refused::AlreadyMember.into());
        }
        return Ok(MemberChange { member, token: organization.token() });
    }
    admission.require_since(store::last_end(tx, org_id, invitee.user_id).await?)?;
    let inviter = store::find(tx, org_id, admission.inviter_id).await?;
    let associations = promised_associations(tx, org_id, invitee, admission).await?;
    let joined = organization.admit(invitee, admission, inviter.as_ref(), &associations, tx.now)?;
    let token = organization::store::bump_access_version(tx, org_id, &joined).await?;
    let member = store::insert(tx, joined).await?;
    for team_id in associations.team_ids {
        team::store::add_member(tx, org_id, team_id, invitee.user_id).await?;
    }
    project_access::store::insert_rows(tx, &associations.grants).await?;
    Ok(MemberChange { member, token })
}

/// Returns the teams and grants that an invitation includes, without teams and projects that have been
/// deleted since (IN-15).
async fn promised_associations(
    tx: &mut Tx,
    org_id: OrgId,
    invitee: &Account,
    admission: &Admission,
) -> Result<MemberAssociations> {
    let existing_teams = team::store::team_ids(tx, org_id).await?;
    let mut team_ids = admission.team_ids.clone();
    team_ids.sort_unstable();
    team_ids.dedup();
    team_ids.retain(|it| existing_teams.contains(it));
    let existing_projects = project_access::store::project_ids(tx, org_id).await?;
    let principal = Principal::User(invitee.user_id);
    let mut grants: Vec<ProjectGrant> = vec![];
    for PromisedAccess { project_id, role } in admission.project_access.iter().copied() {
        let is_listed = grants.iter().any(|it| it.project_id == project_id);
        if existing_projects.contains(&project_id) && !is_listed {
            let project = ProjectRef { org_id, project_id };
            let granted_by = admission.inviter_id;
            grants.push(ProjectGrant::new(project, principal, role, granted_by, tx.now));
        }
    }
    Ok(MemberAssociations { grants, team_ids, key_ids: vec![] })
}

/// Returns those of the addresses that belong to members.
async fn filter_member_emails(db: &Db, org_id: OrgId, emails: &[String]) -> Result<Vec<String>> {
    let canonical = |text: &String| email::parse(text).map(|it| it.canonical);
    let addresses: Vec<_> = emails.iter().filter_map(canonical).collect();
    let member_addresses = store::find_addresses(db, org_id, &addresses).await?;
    let is_member =
        |text: &&String| canonical(text).is_some_and(|it| member_addresses.contains(&it));
    Ok(emails.iter().filter(is_member).cloned().collect())
}

async fn require(tx: &mut Tx, org_id: OrgId, user_id: UserId) -> Result<Member> {
    store::find(tx, org_id, user_id).await?.ok_or(Error::NotFound("member"))
}

async fn load_associations(tx: &mut Tx, member: &Member) -> Result<MemberAssociations> {
    let Member { org_id, user_id, .. } = *member;
    let principal = Principal::User(user_id);
    Ok(MemberAssociations {
        grants: project_access::store::list_of_principal(tx, org_id, principal).await?,
        team_ids: team::store::teams_of_member(tx, org_id, user_id).await?,
        key_ids: api_key::store::active_keys_of_owner(tx, org_id, user_id).await?,
    })
}

/// Deletes a membership with its grants and team memberships, and revokes its API keys (ID-19).
async fn end_membership(tx: &mut Tx, ended: Changed<Member>) -> Result<ConsistencyToken> {
    let Member { org_id, user_id, .. } = *ended.state();
    let token = organization::store::bump_access_version(tx, org_id, &ended).await?;
    let principal = Principal::User(user_id);
    project_access::store::delete_all_of_principal(tx, org_id, principal).await?;
    team::store::remove_member_from_all(tx, org_id, user_id).await?;
    api_key::store::revoke_all_of_owner(tx, org_id, user_id).await?;
    store::delete(tx, ended).await?;
    Ok(token)
}
