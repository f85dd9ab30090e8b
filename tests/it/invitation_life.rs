//! What managers and invited people do with an invitation, and what they are told when it does not work.

use chassis::clock::Duration;
use serde_json::{Value, json};
use testkit::{Options, Suite, eventually};

use crate::world::{World, admit, merge, text};

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
    /// Invites an address; answers the invitation.
    pub(crate) async fn invite(&self, email: &str, more: Value) -> Value {
        let create = self.here(merge(json!({ "email": email, "role": "ORG_ROLE_VIEWER" }), more));
        self.owner.tell(CREATE, create).await["invitation"].clone()
    }

    /// The token of a link that a manager copies.
    pub(crate) async fn copied(&self, invitation: &Value) -> String {
        let link =
            self.owner.tell(LINK, self.here(json!({ "invitationId": invitation["id"] }))).await;
        text(&link["link"]).rsplit('/').next().unwrap_or_default().to_owned()
    }
}

fn ids(answer: &Value) -> Vec<String> {
    let rows = answer["invitations"].as_array();
    rows.into_iter().flatten().map(|it| text(&it["id"])).collect()
}

/// IN-2, IN-3, IN-4, IN-5, IN-10, IN-28, and 9.4: what an invitation may say.
#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_says_what_it_may_or_is_not_made() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let base = world.here(json!({ "email": "x@example.com", "role": "ORG_ROLE_VIEWER" }));
    let wrong = [
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
    for more in wrong {
        assert_eq!(
            world.owner.refused(CREATE, merge(base.clone(), more.clone())).await,
            "INVALID_FIELD",
            "{more}"
        );
    }
    let nowhere = chassis::id::new().to_string();
    let foreign = json!({ "projectId": nowhere, "role": "PROJECT_ROLE_VIEWER" });
    let foreign = json!({ "projectAccess": [foreign] });
    assert_eq!(world.owner.refused(CREATE, merge(base.clone(), foreign)).await, "NOT_FOUND");
    let foreign = json!({ "teamIds": [chassis::id::new().to_string()] });
    assert_eq!(world.owner.refused(CREATE, merge(base.clone(), foreign)).await, "NOT_FOUND");
    // An Admin invites an Admin; the limits themselves pass.
    let admin = json!({
        "email": "y@example.com", "role": "ORG_ROLE_ADMIN", "expiresInDays": 30, "maxUses": 100,
        "message": "x".repeat(500),
    });
    world.admin.tell(CREATE, merge(base.clone(), admin)).await;
    world.invite("z@example.com", json!({ "expiresInDays": 1 })).await;
    let unused =
        "select count(*) from invitation.invitation where revoked_at is null and use_count = 0";
    assert_eq!(suite.count(unused).await, 2);
    suite.finish().await;
}

/// IN-1: Developers and Viewers do nothing with invitations.
#[tokio::test(flavor = "multi_thread")]
async fn only_owner_and_admin_handle_invitations() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let invitation = world.invite("x@example.com", json!({})).await;
    let one = world.here(json!({ "invitationId": invitation["id"] }));
    let create = world.here(json!({ "email": "y@example.com", "role": "ORG_ROLE_VIEWER" }));
    let batch = world.here(json!({ "emails": ["y@example.com"], "role": "ORG_ROLE_VIEWER" }));
    let calls = [
        (CREATE, &create),
        (BATCH, &batch),
        (GET, &one),
        (LINK, &one),
        (RESEND, &one),
        (REVOKE, &one),
        (LIST, &world.here(json!({}))),
        (CLEAN, &world.here(json!({}))),
    ];
    for (method, question) in calls {
        for person in [&world.developer, &world.viewer] {
            assert_eq!(
                person.refused(method, question.clone()).await,
                "MISSING_PERMISSION",
                "{method}"
            );
        }
        let stranger = suite.person(&format!("{}@example.com", chassis::id::new())).await;
        assert_eq!(stranger.refused(method, question.clone()).await, "NOT_FOUND", "{method}");
    }
    world.admin.tell(GET, one).await;
    suite.finish().await;
}

/// IN-9 (A@x and a@x are one person), IN-23, and the list: filter, search, pages, clean-up.
#[tokio::test(flavor = "multi_thread")]
async fn the_list_shows_what_is_and_what_was_until_it_is_cleaned_up() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let before = ids(&world.owner.tell(LIST, world.here(json!({}))).await).len();
    let mut made = vec![];
    for name in ["Ann", "bob", "cem"] {
        made.push(world.invite(&format!("{name}@Guests.example"), json!({})).await);
    }
    let twice = world.here(json!({ "email": "a@x.example", "role": "ORG_ROLE_VIEWER" }));
    world.owner.tell(CREATE, merge(twice.clone(), json!({ "email": "A@x.example" }))).await;
    assert_eq!(world.owner.refused(CREATE, twice).await, "INVITATION_PENDING");
    // Open links are no one person's (IN-9).
    world.invite("ann@guests.example", json!({ "maxUses": 2 })).await;

    let list = async |more: Value| world.owner.tell(LIST, world.here(more)).await;
    assert_eq!(ids(&list(json!({ "search": "ANN@guests" })).await).len(), 2);
    assert_eq!(ids(&list(json!({ "search": "%" })).await).len(), 0);
    let revoke = world.here(json!({ "invitationId": made[1]["id"] }));
    world.owner.tell(REVOKE, revoke.clone()).await;
    let revoked = list(json!({ "state": "INVITATION_STATE_REVOKED" })).await;
    assert_eq!(ids(&revoked), [text(&made[1]["id"])]);
    assert_eq!(revoked["invitations"][0]["revokeCause"], "REVOKE_CAUSE_MANAGER");
    assert_eq!(revoked["invitations"][0]["revokerId"], json!(world.owner.user_id));
    let pending = ids(&list(json!({ "state": "INVITATION_STATE_PENDING" })).await);
    assert_eq!(pending.len(), 4);
    // Page by page, nothing twice and nothing left out.
    let (mut seen, mut token) = (vec![], String::new());
    loop {
        let page = list(json!({ "pageSize": 2, "pageToken": token })).await;
        seen.extend(ids(&page));
        token = text(&page["nextPageToken"]);
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen.len(), before + 5);

    let cleaned = world.owner.tell(CLEAN, world.here(json!({}))).await;
    assert_eq!(cleaned["count"], json!(before + 1));
    let mut left = ids(&list(json!({})).await);
    left.sort();
    let mut expected = pending;
    expected.sort();
    assert_eq!(left, expected);
    assert_eq!(world.owner.refused(GET, revoke).await, "NOT_FOUND");
    let again = world.owner.tell(CLEAN, world.here(json!({}))).await;
    assert_eq!(again["count"], json!(null), "nothing is left to clean up");
    suite.finish().await;
}

/// IN-19, IN-20: the same link again, to the same address, a minute apart.
#[tokio::test(flavor = "multi_thread")]
async fn a_mail_is_sent_again_with_the_same_link() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let invitation = world.invite("bob@example.com", json!({})).await;
    let token = suite.mailbox.token("bob@example.com", "tny_inv_").await.unwrap();
    let one = world.here(json!({ "invitationId": invitation["id"] }));
    let refusal = world.owner.ask(RESEND, one.clone()).await.unwrap_err();
    assert_eq!(refusal.reason, "RESEND_TOO_SOON");
    assert!(refusal.message.contains("wait"), "{refusal}");
    suite.clock.advance(Duration::seconds(61));
    let resent = world.owner.tell(RESEND, one.clone()).await;
    assert_eq!(resent["invitation"]["sendCount"], 2);
    assert_eq!(resent["invitation"]["expireTime"], invitation["expireTime"]);
    let mails = "select count(*) from invitation.mail where sent_at is not null and template = 'invitation'";
    eventually("two mails", async || (suite.count(mails).await >= 5).then_some(())).await;
    assert_eq!(suite.mailbox.token("bob@example.com", "tny_inv_").await.unwrap(), token);
    let shown = world.owner.tell(GET, one).await;
    assert_eq!(shown["invitation"]["mailState"], "MAIL_STATE_SENT");
    suite.finish().await;
}

/// IN-21: fifty in an hour, here three; told when to come back. Each address of a batch by itself.
#[tokio::test(flavor = "multi_thread")]
async fn an_organization_invites_so_many_in_an_hour() {
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
    let answer = ann.tell(BATCH, batch).await;
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
    assert_eq!(ann.refused(CREATE, create.clone()).await, "RATE_LIMITED");
    suite.clock.advance(Duration::minutes(61));
    ann.tell(CREATE, create).await;
    suite.finish().await;
}

/// A batch is answered once, whatever its client repeats.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_are_invited_at_once_and_only_once() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    let emails: Vec<_> = (0..100).map(|it| format!("guest{it}@example.com")).collect();
    let batch = json!({
        "orgId": org, "role": "ORG_ROLE_VIEWER", "emails": emails,
        "requestId": chassis::id::new().to_string(),
    });
    let first = ann.tell(BATCH, batch.clone()).await;
    assert_eq!(ann.tell(BATCH, batch.clone()).await, first);
    assert_eq!(suite.count("select count(*) from invitation.invitation").await, 100);
    let mut more = emails;
    more.push("one@too.example".to_owned());
    let more = merge(batch, json!({ "emails": more }));
    assert_eq!(ann.refused(BATCH, more).await, "INVALID_FIELD");
    suite.finish().await;
}

/// IN-14, IN-16, and "my invitations": a person finds what is for them, says yes or no, and nobody else does.
#[tokio::test(flavor = "multi_thread")]
async fn people_find_their_own_invitations_and_answer_them() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let bob = suite.person("bob@example.com").await;
    let eve = suite.person("eve@example.com").await;
    let invitation = world.invite("BOB@example.com", json!({ "message": "Hi\nBob" })).await;
    world.invite("bob@example.com", json!({ "maxUses": 2 })).await;

    let mine = bob.tell(MINE, json!({})).await;
    assert_eq!(ids(&mine), [text(&invitation["id"])]);
    assert_eq!(mine["invitations"][0]["orgName"], "acme");
    assert_eq!(ids(&eve.tell(MINE, json!({})).await).len(), 0);
    let by_id = json!({ "invitationId": invitation["id"] });
    assert_eq!(eve.refused(ACCEPT, by_id.clone()).await, "NOT_FOUND");
    assert_eq!(eve.refused(DECLINE, by_id.clone()).await, "NOT_FOUND");
    assert_eq!(bob.refused(ACCEPT, json!({})).await, "INVALID_FIELD");
    bob.tell(DECLINE, by_id.clone()).await;
    let refusal = bob.ask(ACCEPT, by_id).await.unwrap_err();
    assert_eq!(refusal.reason, "INVITATION_REVOKED");
    assert!(refusal.message.contains("declined"), "{refusal}");
    assert_eq!(ids(&bob.tell(MINE, json!({})).await).len(), 0);

    let second = world.invite("bob@example.com", json!({})).await;
    bob.tell(ACCEPT, json!({ "invitationId": second["id"] })).await;
    assert_eq!(
        bob.refused(ACCEPT, json!({ "invitationId": second["id"] })).await,
        "ALREADY_MEMBER"
    );
    suite.finish().await;
}

/// IN-18, and why the copied link is another one than the mailed: only a mail proves a mailbox.
#[tokio::test(flavor = "multi_thread")]
async fn a_mailed_link_opens_a_confirmed_account_and_a_copied_one_does_not() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let invitation = world.invite("new@example.com", json!({})).await;
    let (copied, mailed) = (
        world.copied(&invitation).await,
        suite.mailbox.token("new@example.com", "tny_inv_").await.unwrap(),
    );
    assert_ne!(copied, mailed);
    let anyone = &world.viewer;
    let sign_up = |token: &str| json!({ "token": token, "password": testkit::PASSWORD });
    let preview = anyone.tell(PREVIEW, json!({ "token": copied })).await;
    assert_eq!(preview["maskedEmail"], "n…@example.com");
    assert_eq!(preview["provesAddress"], json!(null));
    assert_eq!(anyone.refused(SIGN_UP, sign_up(&copied)).await, "LINK_PROVES_NOTHING");
    let short = json!({ "token": mailed, "password": "short" });
    assert_eq!(anyone.refused(SIGN_UP, short).await, "INVALID_FIELD");
    let session = anyone.tell(SIGN_UP, sign_up(&mailed)).await;
    let new = anyone.with_token(&text(&session["token"]));
    let me = new.tell("identity.v1.UserService/GetMe", json!({})).await;
    assert_eq!(me["user"]["email"], "new@example.com");
    assert_eq!(me["user"]["emailVerified"], json!(true), "{me}");
    assert_eq!(anyone.refused(SIGN_UP, sign_up(&mailed)).await, "EMAIL_TAKEN");
    // The copied link opens the invitation like the mailed one.
    new.tell(ACCEPT, json!({ "token": copied })).await;
    assert_eq!(anyone.refused(SIGN_UP, sign_up(&mailed)).await, "INVITATION_EXHAUSTED");

    world.invite("many@example.com", json!({ "maxUses": 3 })).await;
    let open = suite.mailbox.token("many@example.com", "tny_inv_").await.unwrap();
    assert_eq!(anyone.refused(SIGN_UP, sign_up(&open)).await, "LINK_PROVES_NOTHING");
    suite.finish().await;
}

/// IN-11, IN-12, IN-15: what comes with the membership, without what is gone by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_gets_what_was_promised_and_still_exists() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let (kept, gone) = (world.team("kept", &[]).await, world.team("gone", &[]).await);
    let (bob, cem) = (suite.person("bob@example.com").await, suite.person("cem@example.com").await);
    let promised = json!({
        "role": "ORG_ROLE_DEVELOPER", "teamIds": [kept, gone],
        "projectAccess": [{ "projectId": world.project, "role": "PROJECT_ROLE_DEVELOPER" }],
    });
    let invitation = world.invite(&bob.email, promised).await;
    let delete = world.here(json!({ "teamId": gone }));
    world.owner.tell("identity.v1.TeamService/DeleteTeam", delete).await;
    bob.tell(ACCEPT, json!({ "invitationId": invitation["id"] })).await;
    assert!(world.may(&bob, "project.environments.deploy").await);
    assert!(!world.may(&bob, "project.delete").await);
    let team = world.here(json!({ "teamId": kept }));
    let team = world.owner.tell("identity.v1.TeamService/GetTeam", team).await;
    assert_eq!(team["team"]["memberCount"], 1);
    // Without projects and teams: a member who sees no project.
    admit(&world.owner, &world.org, &cem, "DEVELOPER").await;
    assert!(!world.may(&cem, "project.view").await);
    suite.finish().await;
}
