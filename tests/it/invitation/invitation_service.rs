//! Creation, lists, mails and limits of invitations; acceptance, decline and sign-up of invited people.

use chassis::clock::Duration;
use serde_json::{Value, json};
use testkit::{Options, Suite, eventually};

use crate::support::world::{World, add_member, merge, text};

pub(crate) const CREATE: &str = "invitation.v1.InvitationService/CreateInvitation";
const BATCH: &str = "invitation.v1.InvitationService/BatchCreateInvitations";
pub(crate) const GET: &str = "invitation.v1.InvitationService/GetInvitation";
const LIST: &str = "invitation.v1.InvitationService/ListInvitations";
const LINK: &str = "invitation.v1.InvitationService/GetInvitationLink";
const RESEND: &str = "invitation.v1.InvitationService/ResendInvitation";
const REVOKE: &str = "invitation.v1.InvitationService/RevokeInvitation";
pub(crate) const CLEAN: &str = "invitation.v1.InvitationService/CleanUpInvitations";
const MINE: &str = "invitation.v1.InvitationService/ListMyInvitations";
pub(crate) const PREVIEW: &str = "invitation.v1.InvitationService/PreviewInvitation";
pub(crate) const ACCEPT: &str = "invitation.v1.InvitationService/AcceptInvitation";
const DECLINE: &str = "invitation.v1.InvitationService/DeclineInvitation";
const SIGN_UP: &str = "invitation.v1.InvitationService/SignUp";

impl World {
    /// Creates an invitation; returns it.
    pub(crate) async fn invite(&self, email: &str, more: Value) -> Value {
        let create =
            self.org_request(merge(json!({ "email": email, "role": "ORG_ROLE_VIEWER" }), more));
        self.owner.call_ok(CREATE, create).await["invitation"].clone()
    }

    /// Token of the link that `GetInvitationLink` returns.
    pub(crate) async fn copied_link_token(&self, invitation: &Value) -> String {
        let link = self
            .owner
            .call_ok(LINK, self.org_request(json!({ "invitationId": invitation["id"] })))
            .await;
        text(&link["link"]).rsplit('/').next().unwrap_or_default().to_owned()
    }
}

/// Ids of the invitations in a list.
fn ids(answer: &Value) -> Vec<String> {
    let rows = answer["invitations"].as_array();
    rows.into_iter().flatten().map(|it| text(&it["id"])).collect()
}

/// IN-2, IN-3, IN-4, IN-5, IN-10, IN-28: bounds and references of the fields of an invitation.
#[tokio::test(flavor = "multi_thread")]
async fn fields_of_an_invitation_are_validated() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let base = world.org_request(json!({ "email": "x@example.com", "role": "ORG_ROLE_VIEWER" }));
    let invalid = [
        json!({ "expiresInDays": 31 }),
        json!({ "expiresInDays": -1 }),
        json!({ "maxUses": 0 }),
        json!({ "maxUses": 101 }),
        json!({ "role": "ORG_ROLE_OWNER" }),
        json!({ "role": "ORG_ROLE_UNSPECIFIED" }),
        json!({ "email": "nobody" }),
        json!({ "message": "x".repeat(501) }),
        json!({ "message": "bell \u{7}" }),
    ];
    for fields in invalid {
        assert_eq!(
            world.owner.call_err(CREATE, merge(base.clone(), fields.clone())).await,
            "INVALID_FIELD",
            "{fields}"
        );
    }
    let unknown = chassis::id::new().to_string();
    let foreign = json!({ "projectId": unknown, "role": "PROJECT_ROLE_VIEWER" });
    let foreign = json!({ "projectAccess": [foreign] });
    assert_eq!(world.owner.call_err(CREATE, merge(base.clone(), foreign)).await, "NOT_FOUND");
    let foreign = json!({ "teamIds": [chassis::id::new().to_string()] });
    assert_eq!(world.owner.call_err(CREATE, merge(base.clone(), foreign)).await, "NOT_FOUND");
    // An Admin invites an Admin; values at the limits are accepted.
    let admin = json!({
        "email": "y@example.com", "role": "ORG_ROLE_ADMIN", "expiresInDays": 30, "maxUses": 100,
        "message": "x".repeat(500),
    });
    world.admin.call_ok(CREATE, merge(base.clone(), admin)).await;
    world.invite("z@example.com", json!({ "expiresInDays": 1 })).await;
    let unused =
        "select count(*) from invitation.invitation where revoked_at is null and use_count = 0";
    assert_eq!(suite.count(unused).await, 2);
    suite.finish().await;
}

/// IN-1: Developers and Viewers have no access to invitations.
#[tokio::test(flavor = "multi_thread")]
async fn only_owners_and_admins_manage_invitations() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let invitation = world.invite("x@example.com", json!({})).await;
    let by_id = world.org_request(json!({ "invitationId": invitation["id"] }));
    let create = world.org_request(json!({ "email": "y@example.com", "role": "ORG_ROLE_VIEWER" }));
    let batch =
        world.org_request(json!({ "emails": ["y@example.com"], "role": "ORG_ROLE_VIEWER" }));
    let calls = [
        (CREATE, &create),
        (BATCH, &batch),
        (GET, &by_id),
        (LINK, &by_id),
        (RESEND, &by_id),
        (REVOKE, &by_id),
        (LIST, &world.org_request(json!({}))),
        (CLEAN, &world.org_request(json!({}))),
    ];
    for (method, request) in calls {
        for person in [&world.developer, &world.viewer] {
            assert_eq!(
                person.call_err(method, request.clone()).await,
                "MISSING_PERMISSION",
                "{method}"
            );
        }
        let stranger = suite.person(&format!("{}@example.com", chassis::id::new())).await;
        assert_eq!(stranger.call_err(method, request.clone()).await, "NOT_FOUND", "{method}");
    }
    world.admin.call_ok(GET, by_id).await;
    suite.finish().await;
}

/// IN-9 (addresses are compared without case), IN-23: filters, search, pages and clean-up of the list.
#[tokio::test(flavor = "multi_thread")]
async fn invitations_are_listed_searched_and_cleaned_up() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let before = ids(&world.owner.call_ok(LIST, world.org_request(json!({}))).await).len();
    let mut created = vec![];
    for name in ["Ann", "bob", "cem"] {
        created.push(world.invite(&format!("{name}@Guests.example"), json!({})).await);
    }
    let duplicate = world.org_request(json!({ "email": "a@x.example", "role": "ORG_ROLE_VIEWER" }));
    world.owner.call_ok(CREATE, merge(duplicate.clone(), json!({ "email": "A@x.example" }))).await;
    assert_eq!(world.owner.call_err(CREATE, duplicate).await, "INVITATION_PENDING");
    // Links with several uses are not bound to an address (IN-9).
    world.invite("ann@guests.example", json!({ "maxUses": 2 })).await;

    let list = async |more: Value| world.owner.call_ok(LIST, world.org_request(more)).await;
    assert_eq!(ids(&list(json!({ "search": "ANN@guests" })).await).len(), 2);
    assert_eq!(ids(&list(json!({ "search": "%" })).await).len(), 0);
    let revoke = world.org_request(json!({ "invitationId": created[1]["id"] }));
    world.owner.call_ok(REVOKE, revoke.clone()).await;
    let revoked = list(json!({ "state": "INVITATION_STATE_REVOKED" })).await;
    assert_eq!(ids(&revoked), [text(&created[1]["id"])]);
    assert_eq!(revoked["invitations"][0]["revokeCause"], "REVOKE_CAUSE_MANAGER");
    assert_eq!(revoked["invitations"][0]["revokerId"], json!(world.owner.user_id));
    let pending = ids(&list(json!({ "state": "INVITATION_STATE_PENDING" })).await);
    assert_eq!(pending.len(), 4);
    // Pages without gaps and duplicates.
    let mut listed = vec![];
    let mut token = String::new();
    loop {
        let page = list(json!({ "pageSize": 2, "pageToken": token })).await;
        listed.extend(ids(&page));
        token = text(&page["nextPageToken"]);
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(listed.len(), before + 5);

    let cleaned = world.owner.call_ok(CLEAN, world.org_request(json!({}))).await;
    assert_eq!(cleaned["count"], json!(before + 1));
    let mut remaining = ids(&list(json!({})).await);
    remaining.sort();
    let mut expected = pending;
    expected.sort();
    assert_eq!(remaining, expected);
    assert_eq!(world.owner.call_err(GET, revoke).await, "NOT_FOUND");
    let second = world.owner.call_ok(CLEAN, world.org_request(json!({}))).await;
    assert_eq!(second["count"], json!(null), "nothing is left to clean up");
    suite.finish().await;
}

/// IN-19, IN-20: a mail is resent with the same link to the same address, at most once a minute.
#[tokio::test(flavor = "multi_thread")]
async fn a_mail_is_resent_with_the_same_link() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let invitation = world.invite("bob@example.com", json!({})).await;
    let token = suite.mailbox.token("bob@example.com", "tny_inv_").await.unwrap();
    let by_id = world.org_request(json!({ "invitationId": invitation["id"] }));
    let refusal = world.owner.call(RESEND, by_id.clone()).await.unwrap_err();
    assert_eq!(refusal.reason, "RESEND_TOO_SOON");
    assert!(refusal.message.contains("retry in 60 s"), "{refusal}");
    suite.clock.advance(Duration::seconds(61));
    let resent = world.owner.call_ok(RESEND, by_id.clone()).await;
    assert_eq!(resent["invitation"]["sendCount"], 2);
    assert_eq!(resent["invitation"]["expireTime"], invitation["expireTime"]);
    let mails = "select count(*) from invitation.mail where sent_at is not null and template = 'invitation'";
    eventually("two mails", async || (suite.count(mails).await >= 5).then_some(())).await;
    assert_eq!(suite.mailbox.token("bob@example.com", "tny_inv_").await.unwrap(), token);
    let shown = world.owner.call_ok(GET, by_id).await;
    assert_eq!(shown["invitation"]["mailState"], "MAIL_STATE_SENT");
    suite.finish().await;
}

/// IN-21: the number of invitations per organization and hour is limited, here to 3; each address of a batch
/// has its own result.
#[tokio::test(flavor = "multi_thread")]
async fn invitations_per_hour_are_limited() {
    let suite = Suite::start_with(Options { invitations_max: 3, ..Options::default() }).await;
    let ann = suite.person("ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    let batch = json!({
        "orgId": org, "role": "ORG_ROLE_VIEWER",
        "emails": [
            "a@x.example", "A@X.example", "nobody", "ann@example.com", "b@x.example", "c@x.example",
            "d@x.example",
        ],
    });
    let answer = ann.call_ok(BATCH, batch).await;
    let outcome = |it: &Value| match it["refusal"]["reason"].as_str() {
        Some(reason) => reason.to_owned(),
        None => text(&it["invitation"]["state"]),
    };
    let outcomes: Vec<_> = answer["results"].as_array().unwrap().iter().map(outcome).collect();
    let pending = "INVITATION_STATE_PENDING";
    assert_eq!(
        outcomes,
        [
            pending,
            "REASON_INVITATION_PENDING",
            "REASON_INVALID_FIELD",
            "REASON_ALREADY_MEMBER",
            pending,
            pending,
            "REASON_RATE_LIMITED"
        ]
    );
    let create = json!({ "orgId": org, "email": "e@x.example", "role": "ORG_ROLE_VIEWER" });
    assert_eq!(ann.call_err(CREATE, create.clone()).await, "RATE_LIMITED");
    suite.clock.advance(Duration::minutes(61));
    ann.call_ok(CREATE, create).await;
    suite.finish().await;
}

/// A batch of 100 addresses with a request id is executed once; 101 are rejected.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_a_hundred_invitations_is_executed_once() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    let emails: Vec<_> = (0..100).map(|it| format!("guest{it}@example.com")).collect();
    let batch = json!({
        "orgId": org, "role": "ORG_ROLE_VIEWER", "emails": emails,
        "requestId": chassis::id::new().to_string(),
    });
    let first = ann.call_ok(BATCH, batch.clone()).await;
    assert_eq!(ann.call_ok(BATCH, batch.clone()).await, first);
    assert_eq!(suite.count("select count(*) from invitation.invitation").await, 100);
    let mut more = emails;
    more.push("one@too.example".to_owned());
    let more = merge(batch, json!({ "emails": more }));
    assert_eq!(ann.call_err(BATCH, more).await, "INVALID_FIELD");
    suite.finish().await;
}

/// IN-14, IN-16: people list, accept and decline invitations for their own address only.
#[tokio::test(flavor = "multi_thread")]
async fn people_list_accept_and_decline_their_own_invitations() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let bob = suite.person("bob@example.com").await;
    let eve = suite.person("eve@example.com").await;
    let invitation = world.invite("BOB@example.com", json!({ "message": "Hi\nBob" })).await;
    world.invite("bob@example.com", json!({ "maxUses": 2 })).await;

    let mine = bob.call_ok(MINE, json!({})).await;
    assert_eq!(ids(&mine), [text(&invitation["id"])]);
    assert_eq!(mine["invitations"][0]["orgName"], "acme");
    assert_eq!(ids(&eve.call_ok(MINE, json!({})).await).len(), 0);
    let by_id = json!({ "invitationId": invitation["id"] });
    assert_eq!(eve.call_err(ACCEPT, by_id.clone()).await, "NOT_FOUND");
    assert_eq!(eve.call_err(DECLINE, by_id.clone()).await, "NOT_FOUND");
    assert_eq!(bob.call_err(ACCEPT, json!({})).await, "INVALID_FIELD");
    bob.call_ok(DECLINE, by_id.clone()).await;
    let refusal = bob.call(ACCEPT, by_id).await.unwrap_err();
    assert_eq!(refusal.reason, "INVITATION_REVOKED");
    assert!(refusal.message.contains("declined"), "{refusal}");
    assert_eq!(ids(&bob.call_ok(MINE, json!({})).await).len(), 0);

    let another = world.invite("bob@example.com", json!({})).await;
    bob.call_ok(ACCEPT, json!({ "invitationId": another["id"] })).await;
    assert_eq!(
        bob.call_err(ACCEPT, json!({ "invitationId": another["id"] })).await,
        "ALREADY_MEMBER"
    );
    suite.finish().await;
}

/// IN-18: the mailed token proves the mailbox and signs up a confirmed account; the copied token does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_mailed_link_signs_up_a_confirmed_account_and_a_copied_link_does_not() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let invitation = world.invite("new@example.com", json!({})).await;
    let copied = world.copied_link_token(&invitation).await;
    let mailed = suite.mailbox.token("new@example.com", "tny_inv_").await.unwrap();
    assert_ne!(copied, mailed);
    let caller = &world.viewer;
    let sign_up = |token: &str| json!({ "token": token, "password": testkit::PASSWORD });
    let preview = caller.call_ok(PREVIEW, json!({ "token": copied })).await;
    assert_eq!(preview["maskedEmail"], "n…@example.com");
    assert_eq!(preview["provesAddress"], json!(null));
    assert_eq!(caller.call_err(SIGN_UP, sign_up(&copied)).await, "LINK_PROVES_NOTHING");
    let short = json!({ "token": mailed, "password": "short" });
    assert_eq!(caller.call_err(SIGN_UP, short).await, "INVALID_FIELD");
    let session = caller.call_ok(SIGN_UP, sign_up(&mailed)).await;
    let new = caller.with_token(&text(&session["token"]));
    let me = new.call_ok("identity.v1.UserService/GetMe", json!({})).await;
    assert_eq!(me["user"]["email"], "new@example.com");
    assert_eq!(me["user"]["emailVerified"], json!(true), "{me}");
    assert_eq!(caller.call_err(SIGN_UP, sign_up(&mailed)).await, "EMAIL_TAKEN");
    // Both tokens accept the invitation.
    new.call_ok(ACCEPT, json!({ "token": copied })).await;
    assert_eq!(caller.call_err(SIGN_UP, sign_up(&mailed)).await, "INVITATION_EXHAUSTED");

    world.invite("many@example.com", json!({ "maxUses": 3 })).await;
    let open = suite.mailbox.token("many@example.com", "tny_inv_").await.unwrap();
    assert_eq!(caller.call_err(SIGN_UP, sign_up(&open)).await, "LINK_PROVES_NOTHING");
    suite.finish().await;
}

/// IN-11, IN-12, IN-15: an acceptance adds the teams and project roles of the invitation that still exist.
#[tokio::test(flavor = "multi_thread")]
async fn an_acceptance_adds_existing_teams_and_project_roles() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let kept = world.create_team("kept", &[]).await;
    let deleted = world.create_team("deleted", &[]).await;
    let bob = suite.person("bob@example.com").await;
    let cem = suite.person("cem@example.com").await;
    let access = json!({
        "role": "ORG_ROLE_DEVELOPER", "teamIds": [kept, deleted],
        "projectAccess": [{ "projectId": world.project, "role": "PROJECT_ROLE_DEVELOPER" }],
    });
    let invitation = world.invite(&bob.email, access).await;
    let delete = world.org_request(json!({ "teamId": deleted }));
    world.owner.call_ok("identity.v1.TeamService/DeleteTeam", delete).await;
    bob.call_ok(ACCEPT, json!({ "invitationId": invitation["id"] })).await;
    assert!(world.is_allowed(&bob, "project.environments.deploy").await);
    assert!(!world.is_allowed(&bob, "project.delete").await);
    let team = world.org_request(json!({ "teamId": kept }));
    let team = world.owner.call_ok("identity.v1.TeamService/GetTeam", team).await;
    assert_eq!(team["team"]["memberCount"], 1);
    // A Developer without projects and teams sees no project.
    add_member(&world.owner, &world.org, &cem, "DEVELOPER").await;
    assert!(!world.is_allowed(&cem, "project.view").await);
    suite.finish().await;
}
