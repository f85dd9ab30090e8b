//! Organizations from their creation to their purge.

use api::identity as id;
use serde_json::{Value, json};
use testkit::{Options, Suite, eventually};

use crate::world::{World, text};

const ORGS: &str = "identity.v1.OrganizationService";

/// ID-2, ID-32, and 1.8: whoever confirmed their address creates as many as the setting says, and owns
/// them; what they are invited to does not count.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_creates_as_many_organizations_as_it_may() {
    let suite = Suite::start_with(Options { created_orgs_max: 1, ..Options::default() }).await;
    let ann = suite.person("ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    let again = ann.create_organization("again").await.unwrap_err();
    assert_eq!(again.reason, "ORG_LIMIT_REACHED");
    let bob = crate::world::join(&suite, &ann, &org, "bob@example.com", "ADMIN").await;
    bob.create_organization("bobs").await.unwrap();
    let list = bob.tell(&format!("{ORGS}/ListOrganizations"), json!({})).await;
    assert_eq!(list["organizations"].as_array().unwrap().len(), 2);
    let delete = json!({ "orgId": org, "confirmName": "acme" });
    ann.tell(&format!("{ORGS}/DeleteOrganization"), delete).await;
    ann.create_organization("again").await.unwrap();

    let register = json!({ "email": "eve@example.com", "password": testkit::PASSWORD });
    suite.client.ask("identity.v1.UserService/Register", register).await.unwrap();
    let token = testkit::Person::login(&suite.client, "eve@example.com").await.unwrap();
    let unverified = ann.with_token(&token).create_organization("eves").await.unwrap_err();
    assert_eq!(unverified.reason, "EMAIL_NOT_VERIFIED");
    suite.finish().await;
}

/// ID-33, ID-36: names and slugs, and who changes them.
#[tokio::test(flavor = "multi_thread")]
async fn an_organization_has_a_name_and_a_slug_of_its_own() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let update = format!("{ORGS}/UpdateOrganization");
    let rename = world.here(json!({ "name": "Acme Europe", "updateMask": "name" }));
    assert_eq!(world.developer.refused(&update, rename.clone()).await, "MISSING_PERMISSION");
    let renamed = world.admin.tell(&update, rename.clone()).await;
    let it = &renamed["organization"];
    assert_eq!((text(&it["name"]), text(&it["slug"])), ("Acme Europe".into(), "acme".into()));
    let stale = json!({ "name": "Acme", "updateMask": "name", "etag": "\"1\"" });
    assert_eq!(world.admin.refused(&update, world.here(stale)).await, "CONFLICT");
    let none = world.here(json!({ "name": "Acme" }));
    assert_eq!(world.admin.refused(&update, none).await, "INVALID_FIELD");

    let eve = suite.person("eve@example.com").await;
    let create = |slug: &str| json!({ "name": "Evil", "slug": slug });
    let method = format!("{ORGS}/CreateOrganization");
    assert_eq!(eve.refused(&method, create("acme")).await, "SLUG_TAKEN");
    let evil = eve.tell(&method, create("evil")).await;
    let evil = text(&evil["organization"]["id"]);
    let take = json!({ "orgId": evil, "slug": "acme", "updateMask": "slug" });
    assert_eq!(eve.refused(&update, take).await, "SLUG_TAKEN");
    suite.finish().await;
}

/// ID-1, ID-3 to ID-7: ownership moves in one step, with a proof, to another member, and only so.
#[tokio::test(flavor = "multi_thread")]
async fn ownership_moves_in_one_step_and_only_so() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let transfer = format!("{ORGS}/TransferOwnership");
    let to = |user: &str, name: &str| world.here(json!({ "userId": user, "confirmName": name }));
    let (owner, admin) = (&world.owner, &world.admin);
    assert_eq!(admin.refused(&transfer, to(&admin.user_id, "acme")).await, "MISSING_PERMISSION");
    let refused = owner.refused(&transfer, to(&admin.user_id, "Acme?")).await;
    assert_eq!(refused, "CONFIRMATION_MISMATCH");
    let stranger = suite.person("stranger@example.com").await;
    for user in [&owner.user_id, &stranger.user_id] {
        assert_eq!(owner.refused(&transfer, to(user, "acme")).await, "TRANSFER_TARGET");
    }
    // Without the typed name a fresh sign-in counts, and an old one does not.
    suite.clock.advance(chassis::clock::Duration::minutes(6));
    let refused = owner.refused(&transfer, to(&admin.user_id, "")).await;
    assert_eq!(refused, "FRESH_LOGIN_REQUIRED");
    let again = json!({ "password": testkit::PASSWORD });
    owner.tell("identity.v1.SessionService/Reauthenticate", again).await;
    let moved = owner.tell(&transfer, to(&admin.user_id, "")).await;
    assert_eq!(moved["organization"]["ownerId"], admin.user_id);
    let roles = "select string_agg(role, ',' order by role) from identity.member";
    let roles: String = sqlx::query_scalar(roles).fetch_one(&suite.pool).await.unwrap();
    assert_eq!(roles, "admin,developer,owner,viewer");
    assert!(!world.may(owner, "org.billing.manage").await);
    assert!(world.may(admin, "org.billing.manage").await);

    let invite = world.here(json!({ "email": "new@example.com", "role": "ORG_ROLE_OWNER" }));
    let method = "invitation.v1.InvitationService/CreateInvitation";
    assert_eq!(admin.refused(method, invite).await, "INVALID_FIELD");
    let change = "identity.v1.MemberService/ChangeMemberRole";
    let role = |user: &str, role: &str| world.here(json!({ "userId": user, "role": role }));
    let to_owner = role(&owner.user_id, "ORG_ROLE_OWNER");
    assert_eq!(admin.refused(change, to_owner).await, "INVALID_FIELD");
    let of_owner = role(&admin.user_id, "ORG_ROLE_VIEWER");
    assert_eq!(owner.refused(change, of_owner).await, "OWNER_ROLE_IMMUTABLE");
    assert_eq!(
        owner.refused(change, role(&owner.user_id, "ORG_ROLE_VIEWER")).await,
        "SELF_ROLE_CHANGE"
    );
    suite.finish().await;
}

/// ID-11, ID-13, PL-1 to PL-3, PL-5, PL-6: limits are data, block what is new, and take nothing away.
#[tokio::test(flavor = "multi_thread")]
async fn limits_block_what_is_new_and_take_nothing_away() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let usage = async || {
        let usage = world.viewer.tell(&format!("{ORGS}/GetUsage"), world.here(json!({}))).await;
        let of = |key: &str| {
            let all = usage["usage"].as_array().unwrap().clone();
            let it = all.into_iter().find(|it| it["key"] == key).unwrap();
            (text(&it["used"]), it["limit"].as_str().map(str::to_owned))
        };
        (of("members"), of("environments"), of("projects"))
    };
    let count = |used: &str, limit: Option<&str>| (used.to_owned(), limit.map(str::to_owned));
    let unlimited = (count("4", None), count("", None), count("1", None));
    assert_eq!(usage().await, unlimited);
    let change = format!("{ORGS}/ChangePlan");
    let plan = |plan: &str| world.here(json!({ "plan": plan }));
    assert_eq!(world.admin.refused(&change, plan("PLAN_FREE")).await, "MISSING_PERMISSION");
    world.owner.tell(&change, plan("PLAN_FREE")).await;
    let free = (count("4", Some("2")), count("", Some("3")), count("1", Some("2")));
    assert_eq!(usage().await, free, "nobody was removed");
    let invite = world.here(json!({ "email": "new@example.com", "role": "ORG_ROLE_VIEWER" }));
    let method = "invitation.v1.InvitationService/CreateInvitation";
    assert_eq!(world.owner.refused(method, invite).await, "MEMBER_LIMIT_REACHED");
    let create = |name: &str| world.there(json!({ "name": name }));
    let method = "project.v1.EnvironmentService/CreateEnvironment";
    for name in ["one", "two", "three"] {
        world.owner.tell(method, create(name)).await;
    }
    assert_eq!(world.owner.refused(method, create("four")).await, "ENVIRONMENT_LIMIT_REACHED");
    sqlx::query(
        "update identity.plan_limit set value = 4 where plan = 'free' and key = 'environments'",
    )
    .execute(&suite.pool)
    .await
    .unwrap();
    world.owner.tell(method, create("four")).await;
    suite.finish().await;
}

/// ID-34, ID-35: a deletion is previewed, refused while something runs, takes along what other services have,
/// hides the organization at once, is undone in its time, and is for good after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_organization_is_gone_comes_back_and_is_purged() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let invite = world.here(json!({ "email": "new@example.com", "role": "ORG_ROLE_VIEWER" }));
    world.owner.tell("invitation.v1.InvitationService/CreateInvitation", invite).await;
    let environment = world.there(json!({ "name": "main" }));
    let method = "project.v1.EnvironmentService/CreateEnvironment";
    let environment = world.owner.tell(method, environment).await;
    let environment = text(&environment["environment"]["id"]);
    let deploy = world.there(json!({ "environmentId": environment }));
    world.owner.tell("project.v1.EnvironmentService/DeployEnvironment", deploy.clone()).await;

    let preview = format!("{ORGS}/PreviewOrganizationDeletion");
    let preview = world.owner.tell(&preview, world.here(json!({}))).await;
    let it = &preview["preview"];
    assert_eq!(
        (&it["members"], &it["projects"], &it["environments"], &it["pendingInvitations"]),
        (&json!(4), &json!(1), &json!(1), &json!(1))
    );
    assert_eq!(it["blockers"], json!(["the environment main runs or deploys"]));
    let delete = format!("{ORGS}/DeleteOrganization");
    let confirmed =
        |cascade: bool| world.here(json!({ "confirmName": "acme", "cascade": cascade }));
    assert_eq!(world.admin.refused(&delete, confirmed(true)).await, "MISSING_PERMISSION");
    assert_eq!(world.owner.refused(&delete, confirmed(false)).await, "ORG_NOT_EMPTY");
    world.owner.tell(&delete, confirmed(true)).await;

    // From the next call on it is gone for everybody, and known to its Owner, who may bring it back.
    let get = format!("{ORGS}/GetOrganization");
    for person in [&world.owner, &world.admin, &world.viewer] {
        assert_eq!(person.refused(&get, world.here(json!({}))).await, "NOT_FOUND");
        assert_eq!(person.refused(&delete, confirmed(true)).await, "NOT_FOUND");
    }
    let list = format!("{ORGS}/ListOrganizations");
    assert_eq!(world.owner.tell(&list, json!({})).await["organizations"], Value::Null);
    eventually("what other services have is taken along", async || {
        let listed = world.owner.tell(&list, json!({ "showDeleted": true })).await;
        listed["organizations"][0]["closingServices"].is_null().then_some(())
    })
    .await;
    let restore = format!("{ORGS}/RestoreOrganization");
    assert_eq!(world.admin.refused(&restore, world.here(json!({}))).await, "NOT_FOUND");
    world.owner.tell(&restore, world.here(json!({}))).await;
    assert_eq!(world.owner.refused(&restore, world.here(json!({}))).await, "NOT_RESTORABLE");
    let invitations = json!({ "state": "INVITATION_STATE_REVOKED" });
    let method = "invitation.v1.InvitationService/ListInvitations";
    let invitations = world.admin.tell(method, world.here(invitations)).await;
    assert_eq!(invitations["invitations"][0]["email"], "new@example.com");
    let environment = world.there(json!({ "environmentId": environment }));
    let method = "project.v1.EnvironmentService/GetEnvironment";
    let environment = world.owner.tell(method, environment).await;
    let state = text(&environment["environment"]["state"]);
    assert!(
        !["ENVIRONMENT_STATE_RUNNING", "ENVIRONMENT_STATE_DEPLOYING"].contains(&state.as_str())
    );

    // Gone for good after its time, here and in the other services; its log stays.
    world.owner.tell(&delete, confirmed(true)).await;
    suite.clock.advance(chassis::clock::Duration::days(30));
    let left = "select (select count(*) from identity.organization) + (select count(*) from identity.member)
        + (select count(*) from identity.access_fact) + (select count(*) from project.project)
        + (select count(*) from invitation.invitation)";
    eventually("the purge", async || (suite.count(left).await == 0).then_some(())).await;
    // Its log stays, from its creation to its purge.
    suite.logged().await;
    for (verb, count) in
        [("created", 1), ("deletion_requested", 2), ("restored", 1), ("deleted", 1)]
    {
        assert_eq!(suite.told(&format!("org.{verb}")).await, count, "{verb}");
    }
    suite.finish().await;
}

/// PL-4, ID-35: the subscription says what it is, and a slug is free again once its organization is deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_slug_is_free_again_and_a_restore_asks_for_another() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    suite.subscribe(&org, id::Subscription::PastDue).await;
    let got = ann.tell(&format!("{ORGS}/GetOrganization"), json!({ "orgId": org })).await;
    assert_eq!(got["organization"]["subscription"], "SUBSCRIPTION_PAST_DUE");
    let delete = json!({ "orgId": org, "confirmName": "acme" });
    ann.tell(&format!("{ORGS}/DeleteOrganization"), delete).await;
    ann.create_organization("acme").await.unwrap();
    let restore = format!("{ORGS}/RestoreOrganization");
    assert_eq!(ann.refused(&restore, json!({ "orgId": org })).await, "SLUG_TAKEN");
    let back = ann.tell(&restore, json!({ "orgId": org, "slug": "acme-one" })).await;
    assert_eq!(back["organization"]["slug"], "acme-one");
    assert_eq!(back["organization"]["subscription"], "SUBSCRIPTION_CANCELED");
    suite.finish().await;
}

/// ID-35: an organization whose purge fails is tried again later, and stands in the way of no other.
#[tokio::test(flavor = "multi_thread")]
async fn an_organization_that_cannot_be_purged_holds_up_no_other() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let delete = format!("{ORGS}/DeleteOrganization");
    let mut orgs = vec![];
    for name in ["broken", "sound"] {
        let org = ann.create_organization(name).await.unwrap();
        ann.tell(&delete, json!({ "orgId": org, "confirmName": name })).await;
        orgs.push(org);
    }
    // A row that the purge does not know of, as a bug or a damaged index would leave one.
    let broken = "create table identity.stray (org_id uuid references identity.organization);
                  insert into identity.stray
                  select id from identity.organization order by deleted_at limit 1";
    sqlx::raw_sql(broken).execute(&suite.pool).await.unwrap();
    suite.clock.advance(chassis::clock::Duration::days(30));
    let left = "select count(*) from identity.organization";
    eventually("the purge of the other", async || (suite.count(left).await == 1).then_some(()))
        .await;
    let name: String = sqlx::query_scalar("select name from identity.organization")
        .fetch_one(&suite.pool)
        .await
        .unwrap();
    assert_eq!(name, "broken");
    sqlx::raw_sql("drop table identity.stray").execute(&suite.pool).await.unwrap();
    suite.clock.advance(chassis::clock::Duration::days(2));
    eventually("the purge, tried again", async || (suite.count(left).await == 0).then_some(()))
        .await;
    suite.finish().await;
}
