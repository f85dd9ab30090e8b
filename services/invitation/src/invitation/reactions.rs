//! Reactions of the invitation half to events of other services.

use api::{
    identity as pb,
    invitation::{OrganizationInvitationsClosed, RevokeCause},
    project as prj,
};
use chassis::{Changed, EventTarget, OrgId, Result, Tx, UserId, datetime, email};
use time::OffsetDateTime;

use super::{InvitationId, acceptance, state::State, store};
use crate::recipient;

/// Counts the use of an invitation whose acceptance ended without counting it, for example by a crash.
pub(super) async fn member_joined(tx: &mut Tx, event: pb::MemberJoined) -> Result<()> {
    let Some(member) = event.after.filter(|it| !it.invitation_id.is_empty()) else {
        return Ok(());
    };
    let org_id: OrgId = member.org_id.parse()?;
    let invitation_id: InvitationId = member.invitation_id.parse()?;
    // An invitation that was removed from the list is found, too; after a deletion there is nothing to count.
    let found = store::lock_by_link(tx, invitation_id.0).await?;
    let Some(invitation) = found.filter(|it| it.org_id == org_id) else { return Ok(()) };
    acceptance::count_admitted(tx, invitation, member.user_id.parse()?).await?;
    revoke_of_recipient(tx, &member, RevokeCause::RecipientJoined).await
}

/// Revokes the pending invitations of a member who lost the permission to invite.
pub(super) async fn member_role_changed(tx: &mut Tx, event: pb::MemberRoleChanged) -> Result<()> {
    match event.after {
        Some(member) if !event.may_invite => {
            revoke_of_inviter(tx, &member, RevokeCause::InviterDemoted).await
        }
        _ => Ok(()),
    }
}

/// Revokes the pending invitations of and to a member who was removed.
pub(super) async fn member_removed(tx: &mut Tx, event: pb::MemberRemoved) -> Result<()> {
    let Some(member) = event.before else { return Ok(()) };
    membership_ended(tx, &member).await
}

/// Revokes the pending invitations of and to a member who left.
pub(super) async fn member_left(tx: &mut Tx, event: pb::MemberLeft) -> Result<()> {
    let Some(member) = event.before else { return Ok(()) };
    membership_ended(tx, &member).await
}

/// Revokes the pending invitations of a former member, and the personal ones to their address. The identity
/// service refuses older invitations to other addresses of theirs, too (IN-29).
async fn membership_ended(tx: &mut Tx, member: &pb::Member) -> Result<()> {
    revoke_of_inviter(tx, member, RevokeCause::InviterGone).await?;
    revoke_of_recipient(tx, member, RevokeCause::RecipientLeft).await
}

/// Revokes the pending personal invitations to a member's address from before they joined. Newer ones were
/// created after the membership had ended.
async fn revoke_of_recipient(tx: &mut Tx, member: &pb::Member, cause: RevokeCause) -> Result<()> {
    let Some(address) = email::parse(&member.email) else { return Ok(()) };
    let joined_at = member.create_time.and_then(datetime);
    let org_id = member.org_id.parse()?;
    for invitation in store::by_person::lock_pending(tx, org_id, &address.canonical).await? {
        if joined_at.is_some_and(|time| invitation.created_at <= time) {
            store::update(tx, invitation.revoke(cause, None, tx.now)?).await?;
        }
    }
    Ok(())
}

async fn revoke_of_inviter(tx: &mut Tx, inviter: &pb::Member, cause: RevokeCause) -> Result<()> {
    let inviter_id = Some(inviter.user_id.parse()?);
    revoke_pending(tx, inviter.org_id.parse()?, inviter_id, None, cause).await?;
    Ok(())
}

/// Revokes the pending invitations of a deleted organization. They stay revoked if it is restored (ID-35).
pub(super) async fn organization_deleted(
    tx: &mut Tx,
    event: pb::OrganizationDeleted,
) -> Result<()> {
    let Some(organization) = event.after else { return Ok(()) };
    let org_id: OrgId = organization.id.parse()?;
    // Invitations that are newer than the deletion were created after a restore.
    let deleted_at = organization.delete_time.and_then(datetime);
    let cause = RevokeCause::OrganizationDeleted;
    let revoked_invitations = revoke_pending(tx, org_id, None, deleted_at, cause).await?;
    let event = OrganizationInvitationsClosed {
        org_id: organization.id,
        revision: organization.revision,
        revoked_invitations,
    };
    let target = EventTarget::object("organization", org_id, organization.name).in_org(org_id);
    tx.emit(Changed::new((), &event, target));
    Ok(())
}

/// Revokes the pending invitations of an organization whose subscription was blocked. They stay revoked
/// (IN-25).
pub(super) async fn subscription_changed(
    tx: &mut Tx,
    event: pb::SubscriptionChanged,
) -> Result<()> {
    let Some(organization) = event.after else { return Ok(()) };
    if organization.subscription() == pb::Subscription::Blocked {
        let cause = RevokeCause::SubscriptionBlocked;
        revoke_pending(tx, organization.id.parse()?, None, None, cause).await?;
    }
    Ok(())
}

/// Deletes the invitations of a purged organization.
pub(super) async fn organization_purged(tx: &mut Tx, event: pb::OrganizationPurged) -> Result<()> {
    let Some(organization) = event.before else { return Ok(()) };
    store::purge(tx, organization.id.parse()?).await
}

/// Removes a deleted project from the project access of invitations (PE-15).
pub(super) async fn project_deleted(tx: &mut Tx, event: prj::ProjectDeleted) -> Result<()> {
    let Some(project) = event.before else { return Ok(()) };
    store::remove_project(tx, project.org_id.parse()?, project.id.parse()?).await
}

/// Erases the e-mail address of a deleted account from all invitations. An address that the account has only
/// claimed may be another person's.
pub(super) async fn account_deleted(tx: &mut Tx, event: pb::UserDeleted) -> Result<()> {
    let Some(account) = event.before.filter(|it| it.email_verified) else { return Ok(()) };
    erase(tx, &account.email).await
}

/// Erases the e-mail addresses that a deleted account had before.
pub(super) async fn former_addresses_erased(
    tx: &mut Tx,
    event: pb::UserFormerAddressesErased,
) -> Result<()> {
    for email in &event.emails {
        erase(tx, email).await?;
    }
    Ok(())
}

/// Erases an address, and revokes the invitations that only its owner could accept. The invitations are
/// changed first, so that the events of the revocations do not contain the address.
async fn erase(tx: &mut Tx, email: &str) -> Result<()> {
    let Some(address) = email::parse(email) else { return Ok(()) };
    for invitation in store::lock_of_address(tx, &address.canonical).await? {
        let invitation = invitation.without_address();
        store::replace_address(tx, &invitation).await?;
        if invitation.max_uses == 1 && invitation.state(tx.now) == State::Pending {
            let revoked = invitation.revoke(RevokeCause::RecipientGone, None, tx.now)?;
            store::update(tx, revoked).await?;
        }
    }
    recipient::store::delete_rejections(tx, &address.canonical).await
}

/// Revokes the pending invitations of an organization: only those of an inviter, and only those that were
/// created before a time, if these are given. Returns their number.
async fn revoke_pending(
    tx: &mut Tx,
    org_id: OrgId,
    inviter_id: Option<UserId>,
    created_before: Option<OffsetDateTime>,
    cause: RevokeCause,
) -> Result<i32> {
    let mut count = 0;
    for invitation in store::lock_pending(tx, org_id, inviter_id).await? {
        if created_before.is_none_or(|time| invitation.created_at <= time) {
            store::update(tx, invitation.revoke(cause, None, tx.now)?).await?;
            count += 1;
        }
    }
    Ok(count)
}
