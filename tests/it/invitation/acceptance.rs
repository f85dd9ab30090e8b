//! Acceptance of invitations: address, expiry, number of uses, member limit.

use api::{identity as id, invitation as inv};
use chassis::clock::Duration;
use tenantry::client::CallError;
use testkit::{Person, Suite, eventually};
use tonic::Code;

const SERVICE: &str = "tenantry.invitation.v1.InvitationService";

/// Creates an invitation.
pub(crate) async fn invite(
    inviter: &Person,
    org_id: &str,
    email: &str,
    role: id::OrgRole,
    max_uses: i32,
    access: Vec<(String, id::ProjectRole)>,
) -> Result<inv::Invitation, CallError> {
    let access = access
        .into_iter()
        .map(|(project_id, role)| id::ProjectAccess { project_id, role: role.into() });
    let create = inv::CreateInvitationRequest {
        org_id: org_id.to_owned(),
        email: email.to_owned(),
        role: role.into(),
        max_uses: Some(max_uses),
        project_access: access.collect(),
        ..Default::default()
    };
    let created: inv::CreateInvitationResponse =
        inviter.client.call(&format!("{SERVICE}/CreateInvitation"), create).await?;
    Ok(created.invitation.unwrap())
}

/// Accepts the newest invitation mailed to a person.
pub(crate) async fn accept(suite: &Suite, guest: &Person) -> Result<id::Member, CallError> {
    let token = suite.mailbox.token(&guest.email, "tny_inv_").await.unwrap();
    accept_with(guest, &token).await
}

/// Accepts an invitation by its token.
pub(crate) async fn accept_with(guest: &Person, token: &str) -> Result<id::Member, CallError> {
    let accept = inv::AcceptInvitationRequest {
        invitation: Some(inv::accept_invitation_request::Invitation::Token(token.to_owned())),
        ..Default::default()
    };
    let accepted: inv::AcceptInvitationResponse =
        guest.client.call(&format!("{SERVICE}/AcceptInvitation"), accept).await?;
    Ok(accepted.member.unwrap())
}

async fn get(person: &Person, invitation: &inv::Invitation) -> inv::Invitation {
    let get = inv::GetInvitationRequest {
        org_id: invitation.org_id.clone(),
        invitation_id: invitation.id.clone(),
    };
    let got: inv::GetInvitationResponse =
        person.client.call(&format!("{SERVICE}/GetInvitation"), get).await.unwrap();
    got.invitation.unwrap()
}

/// IN-8, IN-9, IN-14, IN-22: an invitation is accepted by its address only, once, and before it expires.
#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_is_accepted_by_its_address_once_before_expiry() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let org_id = ann.create_organization("acme").await.unwrap();
    let bob = suite.person("bob@example.com").await;
    let eve = suite.person("eve@example.com").await;

    let invitation =
        invite(&ann, &org_id, "BOB@example.com", id::OrgRole::Viewer, 1, vec![]).await.unwrap();
    let duplicate = invite(&ann, &org_id, "bob@example.com", id::OrgRole::Viewer, 1, vec![]).await;
    assert_eq!(duplicate.unwrap_err().reason, "INVITATION_PENDING");
    let link = inv::GetInvitationLinkRequest {
        org_id: org_id.clone(),
        invitation_id: invitation.id.clone(),
    };
    let link: inv::GetInvitationLinkResponse =
        ann.client.call(&format!("{SERVICE}/GetInvitationLink"), link).await.unwrap();
    let token = link.link.rsplit('/').next().unwrap();
    let refused = accept_with(&eve, token).await.unwrap_err();
    assert_eq!(
        (refused.code, refused.reason.as_str()),
        (Code::PermissionDenied, "INVITATION_EMAIL_MISMATCH")
    );
    accept_with(&bob, token).await.unwrap();
    assert_eq!(accept_with(&bob, token).await.unwrap_err().reason, "ALREADY_MEMBER");
    let used = get(&ann, &invitation).await;
    assert_eq!(used.state(), inv::InvitationState::Expired);
    assert_eq!(used.expiry_reason(), inv::ExpiryReason::MaxUses);
    assert_eq!(used.acceptances.len(), 1);
    let member = invite(&ann, &org_id, "bob@example.com", id::OrgRole::Viewer, 1, vec![]).await;
    assert_eq!(member.unwrap_err().reason, "ALREADY_MEMBER");

    let late =
        invite(&ann, &org_id, "eve@example.com", id::OrgRole::Viewer, 1, vec![]).await.unwrap();
    let late_token = suite.mailbox.token("eve@example.com", "tny_inv_").await.unwrap();
    suite.clock.advance(Duration::days(8));
    let ann = ann.sign_in_again().await;
    let eve = eve.sign_in_again().await;
    let late_answer = accept_with(&eve, &late_token).await.unwrap_err();
    assert_eq!(late_answer.reason, "INVITATION_EXPIRED");
    assert_eq!(get(&ann, &late).await.expiry_reason(), inv::ExpiryReason::Time);
    suite.finish().await;
}

/// IN-24: pending invitations are revoked when their inviter loses the permission to invite.
#[tokio::test(flavor = "multi_thread")]
async fn invitations_of_a_demoted_inviter_are_revoked() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let org_id = ann.create_organization("acme").await.unwrap();
    let admin = suite.person("admin@example.com").await;
    invite(&ann, &org_id, &admin.email, id::OrgRole::Admin, 1, vec![]).await.unwrap();
    accept(&suite, &admin).await.unwrap();
    let guest = suite.person("guest@example.com").await;
    let pending =
        invite(&admin, &org_id, &guest.email, id::OrgRole::Admin, 1, vec![]).await.unwrap();
    let token = suite.mailbox.token(&guest.email, "tny_inv_").await.unwrap();

    let change = id::ChangeMemberRoleRequest {
        org_id: org_id.clone(),
        user_id: admin.user_id.clone(),
        role: id::OrgRole::Viewer.into(),
        ..Default::default()
    };
    let method = "tenantry.identity.v1.MemberService/ChangeMemberRole";
    let _: id::ChangeMemberRoleResponse = ann.client.call(method, change).await.unwrap();
    // Rejected at once; the reason depends on the progress of the reaction.
    let reason = accept_with(&guest, &token).await.unwrap_err().reason;
    assert!(["INVITER_NOT_ALLOWED", "INVITATION_REVOKED"].contains(&reason.as_str()), "{reason}");
    eventually("the revocation", async || {
        (get(&ann, &pending).await.state() == inv::InvitationState::Revoked).then_some(())
    })
    .await;
    suite.finish().await;
}

/// IN-6, ID-12: a full organization rejects invitations and acceptances until a seat is free.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_organization_rejects_invitations_until_a_seat_is_free() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let org_id = ann.create_organization("acme").await.unwrap();
    let bob = suite.person("bob@example.com").await;
    let cem = suite.person("cem@example.com").await;
    invite(&ann, &org_id, &bob.email, id::OrgRole::Viewer, 1, vec![]).await.unwrap();
    invite(&ann, &org_id, &cem.email, id::OrgRole::Viewer, 1, vec![]).await.unwrap();
    ann.change_plan(&org_id, id::Plan::Free).await.unwrap();

    accept(&suite, &bob).await.unwrap();
    let full = accept(&suite, &cem).await.unwrap_err();
    assert_eq!(
        (full.code, full.reason.as_str()),
        (Code::ResourceExhausted, "MEMBER_LIMIT_REACHED")
    );
    let refused = invite(&ann, &org_id, "dan@example.com", id::OrgRole::Viewer, 1, vec![]).await;
    assert_eq!(refused.unwrap_err().reason, "MEMBER_LIMIT_REACHED");
    let remove = id::RemoveMemberRequest {
        org_id: org_id.clone(),
        user_id: bob.user_id.clone(),
        ..Default::default()
    };
    let method = "tenantry.identity.v1.MemberService/RemoveMember";
    let _: id::RemoveMemberResponse = ann.client.call(method, remove).await.unwrap();
    accept(&suite, &cem).await.unwrap();
    suite.finish().await;
}
