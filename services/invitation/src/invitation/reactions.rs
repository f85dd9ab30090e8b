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

/// Counts the use of an invitation whose acceptance ended before that, for example by a crash.
pub(super) async fn member_joined(tx: &mut Tx, event: pb::MemberJoined) -> Result<()> {
    let Some(member) = event.after.filter(|it| !it.invitation_id.is_empty()) else {
        return Ok(());
    };
    let org_id: OrgId = member.org_id.parse()?;
    let invitation_id: InvitationId = member.invitation_id.parse()?;
    // Also an invitation that was removed from the list; a deleted one has nothing to count.
    let found = store::lock_by_link(tx, invitation_id.0).await?;
    let Some(invitation) = found.filter(|it| it.org_id == org_id) else { return Ok(()) };
    acceptance::count_admitted(tx, invitation, member.user_id.parse()?).await
}

/// Revokes the pending invitations of a member who lost the permission to invite.
pub(super) async fn member_role_changed(tx: &mut Tx, event: pb::MemberRoleChanged) -> Result<()> {
    match event.after {
        Some(member) if !event.may_invite => {
            let cause = RevokeCause::InviterDemoted;
            revoke_of_inviter(tx, member.org_id.parse()?, member.user_id.parse()?, cause).await
        }
        _ => Ok(()),
    }
}

/// Revokes the pending invitations of a member who was removed.
pub(super) async fn member_removed(tx: &mut Tx, event: pb::MemberRemoved) -> Result<()> {
    inviter_gone(tx, event.before).await
}

/// Revokes the pending invitations of a member who left.
pub(super) async fn member_left(tx: &mut Tx, event: pb::MemberLeft) -> Result<()> {
    inviter_gone(tx, event.before).await
}

async fn inviter_gone(tx: &mut Tx, member: Option<pb::Member>) -> Result<()> {
    let Some(member) = member else { return Ok(()) };
    let cause = RevokeCause::InviterGone;
    revoke_of_inviter(tx, member.org_id.parse()?, member.user_id.parse()?, cause).await
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
    let revoked_invitations = revoke_of_org(tx, org_id, deleted_at, cause).await?;
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
        revoke_of_org(tx, organization.id.parse()?, None, cause).await?;
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

/// Erases the e-mail address of a deleted account from all invitations.
pub(super) async fn account_deleted(tx: &mut Tx, event: pb::UserDeleted) -> Result<()> {
    let Some(account) = event.before else { return Ok(()) };
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

/// Erases an address and revokes the invitations that only its owner could accept. The events are written
/// after the erasure, so that they do not contain the address.
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
    recipient::store::delete_bounce(tx, &address.canonical).await
}

/// Revokes the pending invitations of an organization that were not created after a time. Returns their
/// number.
async fn revoke_of_org(
    tx: &mut Tx,
    org_id: OrgId,
    created_until: Option<OffsetDateTime>,
    cause: RevokeCause,
) -> Result<i32> {
    let mut revoked = 0;
    for invitation in store::lock_of_org(tx, org_id).await? {
        let is_newer = created_until.is_some_and(|until| invitation.created_at > until);
        if invitation.state(tx.now) == State::Pending && !is_newer {
            store::update(tx, invitation.revoke(cause, None, tx.now)?).await?;
            revoked += 1;
        }
    }
    Ok(revoked)
}

async fn revoke_of_inviter(
    tx: &mut Tx,
    org_id: OrgId,
    inviter_id: UserId,
    cause: RevokeCause,
) -> Result<()> {
    for invitation in store::lock_of_inviter(tx, org_id, inviter_id).await? {
        if invitation.state(tx.now) == State::Pending {
            store::update(tx, invitation.revoke(cause, None, tx.now)?).await?;
        }
    }
    Ok(())
}
