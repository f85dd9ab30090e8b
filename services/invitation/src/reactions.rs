//! What this service does when something happened elsewhere.

use api::{identity as pb, project as prj};
use chassis::{About, Changed, OrgId, Result, Tx, UserId, email, moment};

use crate::{
    alert, digest,
    invitation::{Cause, Invitation, InvitationId, State, store},
    mail_rule, notification, preference, recipient, webhook,
};

/// A use that identity granted, and whose counting then broke off here, is counted. Waits for an
/// acceptance that is still going on.
pub(crate) async fn member_joined(tx: &mut Tx, event: pb::MemberJoined) -> Result<()> {
    let Some(member) = event.after.filter(|it| !it.invitation_id.is_empty()) else { return Ok(()) };
    let (org_id, user_id) = (member.org_id.parse()?, member.user_id.parse()?);
    let id: InvitationId = member.invitation_id.parse()?;
    // Also one that was cleaned up meanwhile; one that was purged has nothing to count.
    let found = store::lock_by_link(tx, id.0).await?.filter(|it| it.org_id == org_id);
    let Some(it) = found else { return Ok(()) };
    if !store::accepted(tx, id, user_id).await? && it.use_count < it.max_uses {
        store::accept(tx, it.accept(tx.now), user_id).await?;
    }
    Ok(())
}

/// Who may no longer invite takes their pending invitations with them.
pub(crate) async fn member_role_changed(tx: &mut Tx, event: pb::MemberRoleChanged) -> Result<()> {
    match event.after {
        Some(it) if !event.may_invite => {
            revoke_all(tx, it.org_id.parse()?, it.user_id.parse()?, Cause::InviterDemoted).await
        }
        _ => Ok(()),
    }
}

/// Who is no longer there takes their pending invitations with them.
pub(crate) async fn member_removed(tx: &mut Tx, event: pb::MemberRemoved) -> Result<()> {
    match event.before {
        Some(it) => {
            revoke_all(tx, it.org_id.parse()?, it.user_id.parse()?, Cause::InviterGone).await
        }
        None => Ok(()),
    }
}

/// Who left takes their pending invitations with them.
pub(crate) async fn member_left(tx: &mut Tx, event: pb::MemberLeft) -> Result<()> {
    match event.before {
        Some(it) => {
            revoke_all(tx, it.org_id.parse()?, it.user_id.parse()?, Cause::InviterGone).await
        }
        None => Ok(()),
    }
}

/// A deleted organization takes its pending invitations with it, for good (ID-35).
pub(crate) async fn organization_deleted(
    tx: &mut Tx,
    event: pb::OrganizationDeleted,
) -> Result<()> {
    let Some(it) = event.after else { return Ok(()) };
    let org_id: OrgId = it.id.parse()?;
    let revoked = revoke_before(tx, org_id, it.delete_time, Cause::OrganizationDeleted).await?;
    let event = api::invitation::OrganizationClosed {
        org_id: it.id,
        revision: it.revision,
        revoked_invitations: revoked,
    };
    let about = About::object("organization", org_id, it.name).of(org_id);
    tx.emit(Changed::new((), &event, about));
    Ok(())
}

/// A blocked organization takes no members, and its pending invitations do not come back (IN-25).
pub(crate) async fn subscription_changed(
    tx: &mut Tx,
    event: pb::SubscriptionChanged,
) -> Result<()> {
    let Some(it) = event.after else { return Ok(()) };
    if it.subscription() == pb::Subscription::Blocked {
        revoke_before(tx, it.id.parse()?, None, Cause::SubscriptionBlocked).await?;
    }
    Ok(())
}

/// A deleted organization is gone for good.
pub(crate) async fn organization_purged(tx: &mut Tx, event: pb::OrganizationPurged) -> Result<()> {
    let Some(it) = event.before else { return Ok(()) };
    let org_id = it.id.parse()?;
    webhook::store::purge(tx, org_id).await?;
    mail_rule::store::purge(tx, org_id).await?;
    alert::store::purge(tx, org_id).await?;
    digest::store::purge(tx, org_id).await?;
    notification::store::purge(tx, org_id).await?;
    store::purge(tx, org_id).await
}

/// A project that is gone takes along what was set up for it (PE-15). Invitations that name it lead to
/// membership without it.
pub(crate) async fn project_deleted(tx: &mut Tx, event: prj::ProjectDeleted) -> Result<()> {
    let Some(it) = event.before else { return Ok(()) };
    let (org_id, project_id) = (it.org_id.parse()?, it.id.parse()?);
    webhook::store::forget_project(tx, org_id, project_id).await?;
    mail_rule::store::forget_project(tx, org_id, project_id).await?;
    alert::store::forget_project(tx, org_id, project_id).await?;
    store::forget_project(tx, org_id, project_id).await
}

/// A deleted account takes its notifications along, and its address goes from every invitation.
pub(crate) async fn account_deleted(tx: &mut Tx, event: pb::AccountDeleted) -> Result<()> {
    let Some(it) = event.before else { return Ok(()) };
    let user_id = it.id.parse()?;
    preference::store::forget(tx, user_id).await?;
    notification::store::forget(tx, user_id).await?;
    digest::store::forget(tx, user_id).await?;
    erase(tx, &it.email).await
}

/// So do the addresses that the account had before.
pub(crate) async fn former_addresses_erased(
    tx: &mut Tx,
    event: pb::FormerAddressesErased,
) -> Result<()> {
    for email in &event.emails {
        erase(tx, email).await?;
    }
    Ok(())
}

/// Erases an address. Its events are written afterwards, so that they do not name it either.
async fn erase(tx: &mut Tx, email: &str) -> Result<()> {
    let Some(address) = email::parse(email) else { return Ok(()) };
    for it in store::lock_to(tx, &address.canonical).await? {
        let it = it.without_address();
        store::erase(tx, &it).await?;
        if it.max_uses == 1 && it.state(tx.now) == State::Pending {
            store::update(tx, it.revoke(Cause::RecipientGone, None, tx.now)?).await?;
        }
    }
    recipient::store::forget_bounce(tx, &address.canonical).await
}

fn before(invitation: &Invitation, at: Option<prost_types::Timestamp>) -> bool {
    at.and_then(moment).is_none_or(|at| invitation.created_at <= at)
}

/// Revokes what is pending in an organization; answers how much it was. What came after the moment, after a
/// restore, is none of that deletion's.
async fn revoke_before(
    tx: &mut Tx,
    org_id: OrgId,
    at: Option<prost_types::Timestamp>,
    cause: Cause,
) -> Result<i32> {
    let mut revoked = 0;
    for invitation in store::lock_all(tx, org_id).await? {
        if invitation.state(tx.now) == State::Pending && before(&invitation, at) {
            store::update(tx, invitation.revoke(cause, None, tx.now)?).await?;
            revoked += 1;
        }
    }
    Ok(revoked)
}

async fn revoke_all(tx: &mut Tx, org_id: OrgId, inviter_id: UserId, cause: Cause) -> Result<()> {
    for it in store::lock_of_inviter(tx, org_id, inviter_id).await? {
        if it.state(tx.now) == State::Pending {
            store::update(tx, it.revoke(cause, None, tx.now)?).await?;
        }
    }
    Ok(())
}
