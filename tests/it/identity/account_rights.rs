//! Rights of people over their accounts and memberships: change of the address, leaving and deletion.

use api::{
    audit::{self as pb, audit_service_client::AuditServiceClient},
    identity as id,
};
use chassis::clock::Duration;
use serde_json::json;
use testkit::{PASSWORD, Suite, eventually};

use crate::{
    invitation::{
        acceptance::{accept_with, invite},
        invitation_service::{ACCEPT, GET},
    },
    support::{
        audit_client::as_person,
        world::{World, text},
    },
};

const USERS: &str = "identity.v1.UserService";
const ORGS: &str = "identity.v1.OrganizationService";
const MEMBERS: &str = "identity.v1.MemberService";

/// I-27: a newer request ends the link of an older one, a cancellation ends both, and the present address is
/// notified.
#[tokio::test(flavor = "multi_thread")]
async fn a_newer_change_of_the_address_ends_older_ones() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let request = format!("{USERS}/RequestEmailChange");
    let confirm = format!("{USERS}/ConfirmEmailChange");
    let cancel = format!("{USERS}/CancelEmailChange");
    let change_to = |email: &str| json!({ "newEmail": email, "password": PASSWORD });
    ann.call_ok(&request, change_to("typo@example.com")).await;
    let typo = suite.mailbox.token("typo@example.com", "tny_ver_").await.unwrap();
    suite.clock.advance(Duration::minutes(2));
    ann.call_ok(&request, change_to("right@example.com")).await;
    let right = suite.mailbox.token("right@example.com", "tny_ver_").await.unwrap();
    assert_eq!(ann.call_err(&confirm, json!({ "token": typo })).await, "VERIFICATION_INVALID");
    ann.call_ok(&cancel, json!({})).await;
    assert_eq!(ann.call_err(&confirm, json!({ "token": right })).await, "VERIFICATION_INVALID");
    ann.call_ok(&cancel, json!({})).await;
    suite.clock.advance(Duration::minutes(2));
    ann.call_ok(&request, change_to("last@example.com")).await;
    let last = suite.mailbox.token("last@example.com", "tny_ver_").await.unwrap();
    let by_password = json!({ "token": last, "password": PASSWORD });
    suite.client.call_json(&confirm, by_password).await.unwrap();
    let notices =
        "select count(*) from identity.mailed_link where canonical_email = 'ann@example.com'
                   and purpose in ('change_requested', 'told_changed')";
    assert_eq!(suite.count(notices).await, 4);
    suite.finish().await;
}

/// I-24: the refusal to delete an account that owns only deleted organizations has the end of their restore;
/// with `give_up_restore` the account is deleted.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_of_deleted_organizations_can_delete_the_account() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    let delete = format!("{USERS}/DeleteAccount");
    let confirm = json!({ "confirmEmail": ann.email });
    let live = ann.call(&delete, confirm.clone()).await.unwrap_err();
    assert_eq!(live.reason, "ACCOUNT_OWNS_ORGANIZATIONS");
    assert!(live.message.contains("transfer or delete"), "{live}");
    let forced = json!({ "confirmEmail": ann.email, "giveUpRestore": true });
    assert_eq!(ann.call_err(&delete, forced.clone()).await, "ACCOUNT_OWNS_ORGANIZATIONS");
    let delete_org = json!({ "orgId": org, "confirmName": "acme" });
    ann.call_ok(&format!("{ORGS}/DeleteOrganization"), delete_org).await;
    let deleted = ann.call(&delete, confirm).await.unwrap_err();
    assert_eq!(deleted.reason, "ACCOUNT_OWNS_ORGANIZATIONS");
    assert!(deleted.message.contains("restored until 20"), "{deleted}");
    ann.call_ok(&delete, forced).await;
    suite.finish().await;
}

/// PL-4: leaving, deletion and export do not depend on a payment.
#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_organization_can_be_left_exported_and_deleted() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    suite.wait_for_log().await;
    suite.set_subscription(&world.org, id::Subscription::Blocked).await;
    let leave = world.org_request(json!({}));
    world.viewer.call_ok(&format!("{MEMBERS}/LeaveOrganization"), leave).await;
    let rename = world.org_request(json!({ "name": "Acme Europe", "updateMask": "name" }));
    let refused = world.owner.call_err(&format!("{ORGS}/UpdateOrganization"), rename).await;
    assert_eq!(refused, "SUBSCRIPTION_BLOCKED");
    let export = pb::ExportEntriesRequest {
        org_id: world.org.clone(),
        format: pb::ExportFormat::Csv.into(),
        ..Default::default()
    };
    let channel = crate::support::raw::connect(suite.address).await;
    let mut audit = AuditServiceClient::new(channel);
    audit.export_entries(as_person(&world.owner, export)).await.unwrap();
    let delete = world.org_request(json!({ "confirmName": "acme", "cascade": true }));
    world.owner.call_ok(&format!("{ORGS}/DeleteOrganization"), delete).await;
    suite.finish().await;
}

/// IN-29: joining settles the other personal invitations to the person, and a removed member does not come
/// back by an old one; the response to the removal names the open links.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_does_not_return_by_an_older_invitation() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    let bob = suite.person("bob@example.com").await;
    let cem = suite.person("cem@example.com").await;
    let invite_to = async |email: &str, role, uses| {
        let invitation = invite(&ann, &org, email, role, uses, vec![]).await.unwrap();
        let token = suite.mailbox.token(email, "tny_inv_").await.unwrap();
        (invitation, token)
    };
    let (admin, admin_token) = invite_to(&bob.email, id::OrgRole::Admin, 1).await;
    let (second, second_token) = invite_to("bob@example.org", id::OrgRole::Admin, 1).await;
    let (open, open_token) = invite_to("all@example.com", id::OrgRole::Viewer, 5).await;
    accept_with(&bob, &open_token).await.unwrap();
    let get = |invitation: &str| json!({ "orgId": org, "invitationId": invitation });
    let settled = eventually("the revocation", async || {
        let got = ann.call_ok(GET, get(&admin.id)).await;
        (got["invitation"]["state"] == "INVITATION_STATE_REVOKED").then_some(got)
    });
    assert_eq!(settled.await["invitation"]["revokeCause"], "REVOKE_CAUSE_RECIPIENT_JOINED");

    let remove = json!({ "orgId": org, "userId": bob.user_id });
    let removed = ann.call_ok(&format!("{MEMBERS}/RemoveMember"), remove).await;
    assert_eq!(removed["openInvitationIds"], json!([open.id]));
    let refused = accept_with(&bob, &admin_token).await.unwrap_err();
    assert_eq!(refused.reason, "INVITATION_REVOKED");
    // The invitation to another address of the same person.
    let change = json!({ "newEmail": "bob@example.org", "password": PASSWORD });
    bob.call_ok(&format!("{USERS}/RequestEmailChange"), change).await;
    let link = suite.mailbox.token("bob@example.org", "tny_ver_").await.unwrap();
    bob.call_ok(&format!("{USERS}/ConfirmEmailChange"), json!({ "token": link })).await;
    let login = json!({ "email": "bob@example.org", "password": PASSWORD });
    let session = suite.client.call_json("identity.v1.SessionService/Login", login).await.unwrap();
    let bob = bob.with_token(&text(&session["token"]));
    let by_id = json!({ "invitationId": second.id });
    assert_eq!(bob.call_err(ACCEPT, by_id).await, "INVITATION_REVOKED");
    assert_eq!(accept_with(&bob, &second_token).await.unwrap_err().reason, "INVITATION_REVOKED");

    // Somebody who left, and a new invitation after that.
    let (_, old) = invite_to(&cem.email, id::OrgRole::Viewer, 1).await;
    accept_with(&cem, &open_token).await.unwrap();
    cem.call_ok(&format!("{MEMBERS}/LeaveOrganization"), json!({ "orgId": org })).await;
    assert_eq!(accept_with(&cem, &old).await.unwrap_err().reason, "INVITATION_REVOKED");
    eventually("the revocation", async || {
        let pending = "select count(*) from invitation.invitation
                       where email = 'cem@example.com' and revoked_at is null";
        (suite.count(pending).await == 0).then_some(())
    })
    .await;
    suite.clock.advance(Duration::minutes(2));
    let renewed = invite(&ann, &org, &cem.email, id::OrgRole::Viewer, 1, vec![]).await.unwrap();
    cem.call_ok(ACCEPT, json!({ "invitationId": renewed.id })).await;
    suite.finish().await;
}
