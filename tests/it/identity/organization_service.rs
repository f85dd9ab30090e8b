//! Organizations: creation, names, ownership, plan limits, deletion, restore and purge.

use api::identity as id;
use serde_json::{Value, json};
use testkit::{Options, Suite, eventually};

use crate::support::world::{World, new_member, text};

const ORGS: &str = "identity.v1.OrganizationService";

/// ID-2, ID-32: an account with a confirmed address owns the organizations that it creates; their number is
/// limited by a setting, memberships do not count.
#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_organizations_per_account_is_limited() {
    let suite = Suite::start_with(Options { created_orgs_max: 1, ..Options::default() }).await;
    let ann = suite.person("ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    let refusal = ann.create_organization("again").await.unwrap_err();
    assert_eq!(refusal.reason, "ORG_LIMIT_REACHED");
    let bob = new_member(&suite, &ann, &org, "bob@example.com", "ADMIN").await;
    bob.create_organization("bobs").await.unwrap();
    let list = bob.call_ok(&format!("{ORGS}/ListOrganizations"), json!({})).await;
    assert_eq!(list["organizations"].as_array().unwrap().len(), 2);
    let delete = json!({ "orgId": org, "confirmName": "acme" });
    ann.call_ok(&format!("{ORGS}/DeleteOrganization"), delete).await;
    ann.create_organization("again").await.unwrap();

    let register = json!({ "email": "eve@example.com", "password": testkit::PASSWORD });
    suite.client.call_json("identity.v1.UserService/Register", register).await.unwrap();
    let token = testkit::Person::login(&suite.client, "eve@example.com").await.unwrap();
    let unverified = ann.with_token(&token).create_organization("eves").await.unwrap_err();
    assert_eq!(unverified.reason, "EMAIL_NOT_VERIFIED");
    suite.finish().await;
}

/// ID-33, ID-36: changes of names and slugs, and their permission.
#[tokio::test(flavor = "multi_thread")]
async fn names_change_and_slugs_are_unique() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let update = format!("{ORGS}/UpdateOrganization");
    let rename = world.org_request(json!({ "name": "Acme Europe", "updateMask": "name" }));
    assert_eq!(world.developer.call_err(&update, rename.clone()).await, "MISSING_PERMISSION");
    let renamed = world.admin.call_ok(&update, rename.clone()).await;
    let organization = &renamed["organization"];
    assert_eq!(organization["name"], "Acme Europe");
    assert_eq!(organization["slug"], "acme");
    let stale = json!({ "name": "Acme", "updateMask": "name", "etag": "\"1\"" });
    assert_eq!(world.admin.call_err(&update, world.org_request(stale)).await, "CONFLICT");
    let no_mask = world.org_request(json!({ "name": "Acme" }));
    assert_eq!(world.admin.call_err(&update, no_mask).await, "INVALID_FIELD");

    let eve = suite.person("eve@example.com").await;
    let create = |slug: &str| json!({ "name": "Evil", "slug": slug });
    let method = format!("{ORGS}/CreateOrganization");
    assert_eq!(eve.call_err(&method, create("acme")).await, "SLUG_TAKEN");
    // A slug that is derived from the name is made unique.
    let derived = eve.call_ok(&method, json!({ "name": "Acme" })).await;
    let slug = derived["organization"]["slug"].as_str().unwrap();
    assert!(slug.starts_with("acme-") && slug.len() == "acme-".len() + 4, "{slug}");
    let evil = eve.call_ok(&method, create("evil")).await;
    let evil = text(&evil["organization"]["id"]);
    let take_slug = json!({ "orgId": evil, "slug": "acme", "updateMask": "slug" });
    assert_eq!(eve.call_err(&update, take_slug).await, "SLUG_TAKEN");
    suite.finish().await;
}

/// ID-1, ID-3 to ID-7: only the Owner transfers ownership, in one step, to another member, with the typed
/// name or a fresh sign-in; no invitation or change of role does.
#[tokio::test(flavor = "multi_thread")]
async fn ownership_is_transferred_in_one_step() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let transfer = format!("{ORGS}/TransferOwnership");
    let to =
        |user: &str, name: &str| world.org_request(json!({ "userId": user, "confirmName": name }));
    let owner = &world.owner;
    let admin = &world.admin;
    assert_eq!(admin.call_err(&transfer, to(&admin.user_id, "acme")).await, "MISSING_PERMISSION");
    let reason = owner.call_err(&transfer, to(&admin.user_id, "Acme?")).await;
    assert_eq!(reason, "CONFIRMATION_MISMATCH");
    let stranger = suite.person("stranger@example.com").await;
    for user in [&owner.user_id, &stranger.user_id] {
        assert_eq!(owner.call_err(&transfer, to(user, "acme")).await, "TRANSFER_TARGET");
    }
    // Without the typed name a fresh sign-in is required.
    suite.clock.advance(chassis::clock::Duration::minutes(6));
    let reason = owner.call_err(&transfer, to(&admin.user_id, "")).await;
    assert_eq!(reason, "FRESH_LOGIN_REQUIRED");
    let reauthenticate = json!({ "password": testkit::PASSWORD });
    owner.call_ok("identity.v1.SessionService/Reauthenticate", reauthenticate).await;
    let transferred = owner.call_ok(&transfer, to(&admin.user_id, "")).await;
    assert_eq!(transferred["organization"]["ownerId"], admin.user_id);
    let roles = "select string_agg(role, ',' order by role) from identity.member";
    let roles: String = sqlx::query_scalar(roles).fetch_one(&suite.pool).await.unwrap();
    assert_eq!(roles, "admin,developer,owner,viewer");
    assert!(!world.is_allowed(owner, "org.billing.manage").await);
    assert!(world.is_allowed(admin, "org.billing.manage").await);

    let invite = world.org_request(json!({ "email": "new@example.com", "role": "ORG_ROLE_OWNER" }));
    let method = "invitation.v1.InvitationService/CreateInvitation";
    assert_eq!(admin.call_err(method, invite).await, "INVALID_FIELD");
    let change = "identity.v1.MemberService/ChangeMemberRole";
    let role = |user: &str, role: &str| world.org_request(json!({ "userId": user, "role": role }));
    let to_owner = role(&owner.user_id, "ORG_ROLE_OWNER");
    assert_eq!(admin.call_err(change, to_owner).await, "INVALID_FIELD");
    let of_owner = role(&admin.user_id, "ORG_ROLE_VIEWER");
    assert_eq!(owner.call_err(change, of_owner).await, "OWNER_ROLE_IMMUTABLE");
    assert_eq!(
        owner.call_err(change, role(&owner.user_id, "ORG_ROLE_VIEWER")).await,
        "SELF_ROLE_CHANGE"
    );
    suite.finish().await;
}

/// ID-11, ID-13, PL-1 to PL-3, PL-5, PL-6: limits are rows of a table; they block creation and remove
/// nothing.
#[tokio::test(flavor = "multi_thread")]
async fn plan_limits_block_creation_and_remove_nothing() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let usage = async || {
        let usage =
            world.viewer.call_ok(&format!("{ORGS}/GetUsage"), world.org_request(json!({}))).await;
        let row = |key: &str| {
            let mut rows = usage["usage"].as_array().unwrap().iter();
            let row = rows.find(|row| row["key"] == key).unwrap();
            (text(&row["used"]), row["limit"].as_str().map(str::to_owned))
        };
        (row("members"), row("environments"), row("projects"))
    };
    let count = |used: &str, limit: Option<&str>| (used.to_owned(), limit.map(str::to_owned));
    let unlimited = (count("4", None), count("", None), count("1", None));
    assert_eq!(usage().await, unlimited);
    let change = "identity.v1.BillingService/ChangePlan";
    let plan = |plan: &str| world.org_request(json!({ "plan": plan }));
    assert_eq!(world.admin.call_err(change, plan("PLAN_FREE")).await, "MISSING_PERMISSION");
    world.owner.call_ok(change, plan("PLAN_FREE")).await;
    let free = (count("4", Some("2")), count("", Some("3")), count("1", Some("2")));
    assert_eq!(usage().await, free, "nobody was removed");
    let invite =
        world.org_request(json!({ "email": "new@example.com", "role": "ORG_ROLE_VIEWER" }));
    let method = "invitation.v1.InvitationService/CreateInvitation";
    assert_eq!(world.owner.call_err(method, invite).await, "MEMBER_LIMIT_REACHED");
    let create = |name: &str| world.project_request(json!({ "name": name }));
    let method = "project.v1.EnvironmentService/CreateEnvironment";
    for name in ["one", "two", "three"] {
        world.owner.call_ok(method, create(name)).await;
    }
    assert_eq!(world.owner.call_err(method, create("four")).await, "ENVIRONMENT_LIMIT_REACHED");
    sqlx::query(
        "update identity.plan_limit set value = 4 where plan = 'free' and key = 'environments'",
    )
    .execute(&suite.pool)
    .await
    .unwrap();
    world.owner.call_ok(method, create("four")).await;
    suite.finish().await;
}

/// ID-34, ID-35: a deletion has a preview, needs `cascade` while environments run, hides the organization at
/// once, cleans up other services, can be undone for 30 days, and ends with the purge.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_organization_is_hidden_restored_and_purged() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let invite =
        world.org_request(json!({ "email": "new@example.com", "role": "ORG_ROLE_VIEWER" }));
    world.owner.call_ok("invitation.v1.InvitationService/CreateInvitation", invite).await;
    let environment = world.project_request(json!({ "name": "main" }));
    let method = "project.v1.EnvironmentService/CreateEnvironment";
    let environment = world.owner.call_ok(method, environment).await;
    let environment = text(&environment["environment"]["id"]);
    let deploy = world.project_request(json!({ "environmentId": environment }));
    world.owner.call_ok("project.v1.EnvironmentService/DeployEnvironment", deploy.clone()).await;

    let preview = format!("{ORGS}/PreviewOrganizationDeletion");
    let preview = world.owner.call_ok(&preview, world.org_request(json!({}))).await;
    let preview = &preview["preview"];
    assert_eq!(preview["members"], 4);
    for count in ["projects", "environments", "pendingInvitations"] {
        assert_eq!(preview[count], 1, "{count}");
    }
    assert_eq!(preview["blockers"], json!(["the environment main is running or deploying"]));
    let delete = format!("{ORGS}/DeleteOrganization");
    let confirmed =
        |cascade: bool| world.org_request(json!({ "confirmName": "acme", "cascade": cascade }));
    assert_eq!(world.admin.call_err(&delete, confirmed(true)).await, "MISSING_PERMISSION");
    assert_eq!(world.owner.call_err(&delete, confirmed(false)).await, "ORG_NOT_EMPTY");
    world.owner.call_ok(&delete, confirmed(true)).await;

    // From the next call on nobody can read it; its Owner sees it in `show_deleted` lists and may restore it.
    let get = format!("{ORGS}/GetOrganization");
    for person in [&world.owner, &world.admin, &world.viewer] {
        assert_eq!(person.call_err(&get, world.org_request(json!({}))).await, "NOT_FOUND");
        assert_eq!(person.call_err(&delete, confirmed(true)).await, "NOT_FOUND");
    }
    let list = format!("{ORGS}/ListOrganizations");
    assert_eq!(world.owner.call_ok(&list, json!({})).await["organizations"], Value::Null);
    eventually("the cleanup in other services", async || {
        let listed = world.owner.call_ok(&list, json!({ "showDeleted": true })).await;
        listed["organizations"][0]["closingServices"].is_null().then_some(())
    })
    .await;
    let restore = format!("{ORGS}/RestoreOrganization");
    assert_eq!(world.admin.call_err(&restore, world.org_request(json!({}))).await, "NOT_FOUND");
    world.owner.call_ok(&restore, world.org_request(json!({}))).await;
    assert_eq!(
        world.owner.call_err(&restore, world.org_request(json!({}))).await,
        "NOT_RESTORABLE"
    );
    let invitations = json!({ "state": "INVITATION_STATE_REVOKED" });
    let method = "invitation.v1.InvitationService/ListInvitations";
    let invitations = world.admin.call_ok(method, world.org_request(invitations)).await;
    assert_eq!(invitations["invitations"][0]["email"], "new@example.com");
    let environment = world.project_request(json!({ "environmentId": environment }));
    let method = "project.v1.EnvironmentService/GetEnvironment";
    let environment = world.owner.call_ok(method, environment).await;
    let state = text(&environment["environment"]["state"]);
    assert!(
        !["ENVIRONMENT_STATE_RUNNING", "ENVIRONMENT_STATE_DEPLOYING"].contains(&state.as_str())
    );

    // The purge deletes it here and in the other services.
    world.owner.call_ok(&delete, confirmed(true)).await;
    suite.clock.advance(chassis::clock::Duration::days(30));
    let rows = "select (select count(*) from identity.organization) + (select count(*) from identity.member)
        + (select count(*) from identity.access_fact) + (select count(*) from project.project)
        + (select count(*) from invitation.invitation)";
    eventually("the purge", async || (suite.count(rows).await == 0).then_some(())).await;
    // Its audit log stays.
    suite.wait_for_log().await;
    for (verb, count) in [("created", 1), ("deleted", 2), ("restored", 1), ("purged", 1)] {
        assert_eq!(suite.count_entries(&format!("organization.{verb}")).await, count, "{verb}");
    }
    suite.finish().await;
}

/// PL-4, ID-35: the subscription is shown; a slug is free once its organization is deleted, and a restore may
/// need another one.
#[tokio::test(flavor = "multi_thread")]
async fn the_slug_of_a_deleted_organization_can_be_taken() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    suite.set_subscription(&org, id::Subscription::PastDue).await;
    let got = ann.call_ok(&format!("{ORGS}/GetOrganization"), json!({ "orgId": org })).await;
    assert_eq!(got["organization"]["subscription"], "SUBSCRIPTION_PAST_DUE");
    let delete = json!({ "orgId": org, "confirmName": "acme" });
    ann.call_ok(&format!("{ORGS}/DeleteOrganization"), delete).await;
    ann.create_organization("acme").await.unwrap();
    let restore = format!("{ORGS}/RestoreOrganization");
    assert_eq!(ann.call_err(&restore, json!({ "orgId": org })).await, "SLUG_TAKEN");
    let restored = ann.call_ok(&restore, json!({ "orgId": org, "slug": "acme-one" })).await;
    assert_eq!(restored["organization"]["slug"], "acme-one");
    assert_eq!(restored["organization"]["subscription"], "SUBSCRIPTION_CANCELED");
    suite.finish().await;
}

/// ID-35: a purge that fails is retried later and delays no other organization.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_purge_delays_no_other_organization() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let delete = format!("{ORGS}/DeleteOrganization");
    let mut orgs = vec![];
    for name in ["broken", "sound"] {
        let org = ann.create_organization(name).await.unwrap();
        ann.call_ok(&delete, json!({ "orgId": org, "confirmName": name })).await;
        orgs.push(org);
    }
    // A row that blocks the purge, like one left by a bug or a damaged index.
    let broken = "create table identity.stray (org_id uuid references identity.organization);
                  insert into identity.stray
                  select id from identity.organization order by deleted_at limit 1";
    sqlx::raw_sql(broken).execute(&suite.pool).await.unwrap();
    suite.clock.advance(chassis::clock::Duration::days(30));
    let organizations = "select count(*) from identity.organization";
    eventually("the purge of the other", async || {
        (suite.count(organizations).await == 1).then_some(())
    })
    .await;
    let name: String = sqlx::query_scalar("select name from identity.organization")
        .fetch_one(&suite.pool)
        .await
        .unwrap();
    assert_eq!(name, "broken");
    sqlx::raw_sql("drop table identity.stray").execute(&suite.pool).await.unwrap();
    suite.clock.advance(chassis::clock::Duration::days(2));
    eventually("the second purge", async || (suite.count(organizations).await == 0).then_some(()))
        .await;
    suite.finish().await;
}
