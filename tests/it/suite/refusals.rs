//! Remedies of errors (`ErrorInfo.metadata`, `remedies`): each named method is called by somebody who may,
//! and then the refused call succeeds.

mod billing;
mod limits;
mod objects;

use std::{
    collections::BTreeSet,
    io::Write,
    sync::{Mutex, PoisonError},
};

use chassis::clock::Duration;
use prost_reflect::DescriptorPool;
use serde_json::{Value, json};
use tenantry::client::CallError;
use testkit::{Options, PASSWORD, Person, Suite, eventually};

use crate::support::world::add_member;

const ORGANIZATIONS: &str = "identity.v1.OrganizationService";
const INVITATIONS: &str = "invitation.v1.InvitationService";
const ENVIRONMENTS: &str = "project.v1.EnvironmentService";
const PROJECTS: &str = "project.v1.ProjectService";
const SERVERS: &str = "project.v1.ServerService";
const KEYS: &str = "identity.v1.ApiKeyService";

/// Remedies that were carried out, each with the reason of the refusal.
static CARRIED_OUT: Mutex<BTreeSet<(String, String)>> = Mutex::new(BTreeSet::new());

/// Makes a call that is refused with a remedy, carries the remedy out, and repeats the call.
async fn remedied(
    reason: &str,
    remedy: &str,
    call: impl AsyncFn() -> Result<Value, CallError>,
    carry_out: impl AsyncFn(),
) {
    let error = call().await.expect_err(remedy);
    assert_eq!(error.reason, reason, "{remedy}: {error}");
    let remedy = format!("tenantry.{remedy}");
    assert!(error.remedies.contains(&remedy), "{reason}: {:?}", error.remedies);
    // Values of the message are rendered in words, not as Rust shows them.
    let is_rust =
        ["Some(", "None", "::", " { ", "REASON_"].iter().any(|it| error.message.contains(it));
    assert!(!is_rust, "{}", error.message);
    carry_out().await;
    // Some objects are counted by the reaction to an event.
    eventually(&format!("success after {remedy}"), async || call().await.ok()).await;
    let mut carried_out = CARRIED_OUT.lock().unwrap_or_else(PoisonError::into_inner);
    carried_out.insert((reason.to_owned(), remedy));
}

/// Every pair of a reason and a remedy of the contract.
fn declared() -> BTreeSet<(String, String)> {
    let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
    let option = pool.get_extension_by_name("tenantry.error.v1.remedies").unwrap();
    let reasons = pool.get_enum_by_name("tenantry.error.v1.Reason").unwrap();
    let mut pairs = BTreeSet::new();
    for reason in reasons.values() {
        for remedy in reason.options().get_extension(&option).as_list().unwrap() {
            let name = reason.name().trim_start_matches("REASON_").to_owned();
            pairs.insert((name, remedy.as_str().unwrap().to_owned()));
        }
    }
    pairs
}

/// I-31: every remedy of every reason works. `Explain` has a test of its own.
#[tokio::test(flavor = "multi_thread")]
async fn every_remedy_of_an_error_makes_the_refused_call_succeed() {
    let folder = tempfile::tempdir().unwrap();
    let storage_folder = Some(folder.path().to_owned());
    let suite = Suite::start_with(Options { storage_folder, ..Options::default() }).await;
    credentials(&suite).await;
    ownership(&suite).await;
    limits::limits(&suite).await;
    limits::keys(&suite).await;
    limits::hooks(&suite).await;
    limits::export_sinks(&suite).await;
    objects::invitations(&suite).await;
    suite.finish().await;
    let suite = Suite::start().await;
    objects::environments(&suite).await;
    suite.finish().await;
    billing::billing().await;
    let mut declared = declared();
    declared.retain(|(reason, _)| reason != "MISSING_PERMISSION");
    let carried_out = CARRIED_OUT.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let count = format!("{} remedies of errors carried out\n", carried_out.len());
    std::io::stderr().write_all(count.as_bytes()).unwrap();
    assert_eq!(carried_out, declared);
}

/// Signs in again and returns the new session of a person.
async fn fresh(person: &Person) -> Person {
    person.sign_in_again().await
}

async fn credentials(suite: &Suite) {
    let ann = suite.person("ann@example.com").await;
    let new_password = "a longer password 7";
    remedied(
        "INVALID_LOGIN",
        "identity.v1.UserService/RequestPasswordReset",
        async || {
            let login = json!({ "email": ann.email, "password": new_password });
            suite.client.call_json("identity.v1.SessionService/Login", login).await
        },
        async || {
            let request = json!({ "email": ann.email });
            let method = "identity.v1.UserService/RequestPasswordReset";
            suite.client.call_json(method, request).await.unwrap();
            let token = suite.mailbox.token(&ann.email, "tny_rst_").await.unwrap();
            let reset = json!({ "token": token, "newPassword": new_password });
            let method = "identity.v1.UserService/ResetPassword";
            suite.client.call_json(method, reset).await.unwrap();
        },
    )
    .await;
    // An ended session.
    let bob = suite.person("bob@example.com").await;
    let session = Mutex::new(bob.clone());
    bob.call_ok("identity.v1.SessionService/Logout", json!({})).await;
    let current = || session.lock().unwrap().clone();
    remedied(
        "INVALID_CREDENTIAL",
        "identity.v1.SessionService/Login",
        async || current().call("identity.v1.UserService/GetMe", json!({})).await,
        async || {
            let signed_in = fresh(&bob).await;
            *session.lock().unwrap() = signed_in;
        },
    )
    .await;
    let register = json!({ "email": "new@example.com", "password": PASSWORD });
    suite.client.call_json("identity.v1.UserService/Register", register).await.unwrap();
    let token = Person::login(&suite.client, "new@example.com").await.unwrap();
    let new = Person { email: "new@example.com".to_owned(), ..bob.with_token(&token) };
    remedied(
        "EMAIL_NOT_VERIFIED",
        "identity.v1.UserService/ResendVerification",
        async || {
            new.call(&format!("{ORGANIZATIONS}/CreateOrganization"), json!({ "name": "New" })).await
        },
        async || {
            // The first mail is a minute old.
            suite.clock.advance(Duration::minutes(2));
            new.call_ok("identity.v1.UserService/ResendVerification", json!({})).await;
            let token = suite.mailbox.token(&new.email, "tny_ver_").await.unwrap();
            new.call_ok("identity.v1.UserService/VerifyEmail", json!({ "token": token })).await;
        },
    )
    .await;
}

/// An organization with an Owner and an Admin.
async fn pair(suite: &Suite, name: &str) -> (Person, Person, String) {
    let owner = suite.person(&format!("owner.{name}@example.com")).await;
    let admin = suite.person(&format!("admin.{name}@example.com")).await;
    let org = owner.create_organization(name).await.unwrap();
    add_member(&owner, &org, &admin, "ADMIN").await;
    (owner, admin, org)
}

async fn transfer(owner: &Person, org: &str, to: &Person, name: &str) {
    let request = json!({ "orgId": org, "userId": to.user_id, "confirmName": name });
    owner.call_ok(&format!("{ORGANIZATIONS}/TransferOwnership"), request).await;
}

async fn ownership(suite: &Suite) {
    let method = "identity.v1.OrganizationService/TransferOwnership";
    let (owner, admin, org) = pair(suite, "one").await;
    let lower = json!({ "orgId": org, "userId": owner.user_id, "role": "ORG_ROLE_DEVELOPER" });
    remedied(
        "OWNER_ROLE_IMMUTABLE",
        method,
        async || admin.call("identity.v1.MemberService/ChangeMemberRole", lower.clone()).await,
        async || transfer(&owner, &org, &admin, "one").await,
    )
    .await;
    let (owner, admin, org) = pair(suite, "two").await;
    remedied(
        "OWNER_CANNOT_LEAVE",
        method,
        async || {
            let leave = json!({ "orgId": org });
            owner.call("identity.v1.MemberService/LeaveOrganization", leave).await
        },
        async || transfer(&owner, &org, &admin, "two").await,
    )
    .await;
    let (owner, admin, org) = pair(suite, "three").await;
    let delete_account = async |person: &Person| {
        let delete = json!({ "confirmEmail": person.email, "giveUpRestore": true });
        person.call("identity.v1.UserService/DeleteAccount", delete).await
    };
    remedied(
        "ACCOUNT_OWNS_ORGANIZATIONS",
        method,
        async || delete_account(&owner).await,
        async || transfer(&owner, &org, &admin, "three").await,
    )
    .await;
    let delete = format!("{ORGANIZATIONS}/DeleteOrganization");
    remedied(
        "ACCOUNT_OWNS_ORGANIZATIONS",
        &delete,
        async || delete_account(&admin).await,
        async || {
            admin.call_ok(&delete, json!({ "orgId": org, "confirmName": "three" })).await;
        },
    )
    .await;
    let (owner, admin, org) = pair(suite, "four").await;
    suite.clock.advance(Duration::minutes(6));
    remedied(
        "FRESH_LOGIN_REQUIRED",
        "identity.v1.SessionService/Reauthenticate",
        async || {
            let request = json!({ "orgId": org, "userId": admin.user_id });
            owner.call(&format!("{ORGANIZATIONS}/TransferOwnership"), request).await
        },
        async || {
            let password = json!({ "password": PASSWORD });
            owner.call_ok("identity.v1.SessionService/Reauthenticate", password).await;
        },
    )
    .await;
}
