//! The pages that a mail leads to: in a real browser, and as scanners and proxies ask for them.

use std::path::PathBuf;

use api::invitation::{
    GetInvitationLinkRequest, invitation_service_client::InvitationServiceClient,
};
use chassis::clock::Duration;
use reqwest::{Client, Method, StatusCode};
use serde_json::json;
use testkit::{Browser, PASSWORD, Suite, eventually};

use crate::world::{World, text};

/// The link in the newest mail to an address.
async fn link(suite: &Suite, to: &str) -> String {
    let token = suite.mailbox.token(to, "tny_inv_").await.unwrap();
    format!("http://127.0.0.1:{}/invitations/{token}", suite.address.port())
}

fn pictures() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("pages");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Whatever can be filled in or pressed has a name, and the page fits.
async fn accessible(browser: &Browser) {
    assert!(browser.fits().await, "the page is wider than 320 pixels");
    let spoken = browser.spoken().await;
    let named = |it: &&(String, String)| ["textbox", "button", "heading"].contains(&it.0.as_str());
    for (role, name) in spoken.iter().filter(named) {
        assert!(!name.is_empty(), "a {role} has no name: {spoken:?}");
    }
    assert!(spoken.iter().any(|it| it.0 == "main"), "{spoken:?}");
}

/// IN-18, N-09: from the mail to membership, without scripts, at 320 pixels: a new person signs up,
/// another one signs in, a third one declines.
#[tokio::test(flavor = "multi_thread")]
async fn a_person_comes_from_the_mail_to_membership_in_a_browser() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let browser = Browser::start().await;
    let offer =
        json!({ "role": "ORG_ROLE_DEVELOPER", "message": "Welcome <b>Bob</b>!\nWe build shops." });
    world.invite("bob@example.com", offer).await;
    browser.open(&link(&suite, "bob@example.com").await).await;
    let shown = browser.text().await;
    for word in ["Join acme", "owner", "Developer", "b…@example.com", "Welcome <b>Bob</b>!", "UTC"]
    {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    accessible(&browser).await;
    browser.picture(&pictures().join("1-invitation.png")).await;

    browser.fill("input[autocomplete=name]", "Bob").await;
    browser.fill("input[autocomplete=new-password]", "bob@example.com").await;
    browser.press("button[value=sign-up]").await;
    let refused = browser.text().await;
    assert!(refused.to_lowercase().contains("password"), "{refused}");
    assert!(browser.spoken().await.iter().any(|it| it.0 == "alert"), "it is said aloud");
    accessible(&browser).await;
    browser.picture(&pictures().join("2-refused.png")).await;

    browser.fill("input[autocomplete=new-password]", PASSWORD).await;
    browser.press("button[value=sign-up]").await;
    let done = browser.text().await;
    assert!(done.contains("Welcome to acme") && done.contains("Developer"), "{done}");
    accessible(&browser).await;
    browser.picture(&pictures().join("3-member.png")).await;
    assert_eq!(suite.count("select count(*) from identity.member").await, 5);
    // No session is left behind by the page.
    let left = "select count(*) from identity.session join identity.account on account.id = session.user_id
                where account.email = 'bob@example.com' and session.revoked_at is null";
    assert_eq!(suite.count(left).await, 0);
    browser.open(&link(&suite, "bob@example.com").await).await;
    assert!(browser.text().await.contains("was used as often as it allows"));
    browser.picture(&pictures().join("4-used.png")).await;

    // Who has an account signs in; with the wrong one they are told which.
    let cem = suite.person("cem@example.com").await;
    world.invite(&cem.email, json!({})).await;
    browser.open(&link(&suite, &cem.email).await).await;
    let sign_in = async |email: &str, what: &str| {
        browser.fill("input[autocomplete=username]", email).await;
        browser.fill("input[autocomplete=current-password]", PASSWORD).await;
        browser.press(&format!("button[value={what}]")).await;
        browser.text().await
    };
    let other = sign_in(&world.viewer.email, "accept").await;
    assert!(
        other.contains("c…@example.com") && other.contains("sign in with that account"),
        "{other}"
    );
    browser.open(&link(&suite, &cem.email).await).await;
    assert!(sign_in(&cem.email, "accept").await.contains("Welcome to acme"));
    let dan = suite.person("dan@example.com").await;
    world.invite(&dan.email, json!({})).await;
    browser.open(&link(&suite, &dan.email).await).await;
    assert!(sign_in(&dan.email, "decline").await.contains("You declined"));
    browser.picture(&pictures().join("5-declined.png")).await;
    suite.finish().await;
}

/// An open link proves no address: the account is opened, confirmed by its own mail, and then joins.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_link_leads_through_a_confirmation() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let browser = Browser::start().await;
    world.invite("many@example.com", json!({ "maxUses": 3 })).await;
    let link = link(&suite, "many@example.com").await;
    browser.open(&link).await;
    browser.fill("input[autocomplete=email]", "eve@example.com").await;
    browser.fill("input[autocomplete=new-password]", PASSWORD).await;
    browser.press("button[value=sign-up]").await;
    assert!(browser.text().await.contains("Look into your mailbox"));
    let token = suite.mailbox.token("eve@example.com", "tny_ver_").await.unwrap();
    browser.open(&format!("http://127.0.0.1:{}/verify/{token}", suite.address.port())).await;
    browser.picture(&pictures().join("6-confirm.png")).await;
    browser.press("button").await;
    assert!(browser.text().await.contains("Your address is confirmed"));
    browser.open(&link).await;
    browser.fill("input[autocomplete=username]", "eve@example.com").await;
    browser.fill("input[autocomplete=current-password]", PASSWORD).await;
    browser.press("button[value=accept]").await;
    assert!(browser.text().await.contains("Welcome to acme"));
    suite.finish().await;
}

/// N-08, N-09: scanners that look, and headers that lie, change nothing; nobody keeps the page.
#[tokio::test(flavor = "multi_thread")]
async fn looking_at_a_link_consumes_nothing() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let bob = suite.person("bob@example.com").await;
    let invitation = world.invite(&bob.email, json!({})).await;
    let link = link(&suite, &bob.email).await;
    let http = Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    for _ in 0..10 {
        let got = http
            .get(&link)
            .header("host", "evil.example")
            .header("x-forwarded-host", "evil.example");
        let got = got.header("forwarded", "host=evil.example").send().await.unwrap();
        assert_eq!(got.status(), StatusCode::OK);
        let header = |name: &str| got.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("cache-control"), "no-store");
        assert_eq!(header("referrer-policy"), "no-referrer");
        let policy = header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let page = got.text().await.unwrap();
        assert!(!page.contains("evil.example") && !page.contains("<script"), "{page}");
        let head = http.head(&link).send().await.unwrap();
        assert_eq!(head.status(), StatusCode::OK);
        assert!(head.text().await.unwrap().is_empty());
    }
    for method in [Method::PUT, Method::DELETE, Method::OPTIONS] {
        let answer = http.request(method, &link).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    }
    // A form without a button does nothing either.
    let empty = http.post(&link).form(&[("email", "bob@example.com")]).send().await.unwrap();
    assert_eq!(empty.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let large = "x".repeat(70_000);
    let large = http.post(&link).form(&[("email", &large)]).send().await.unwrap();
    assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
    bob.tell(
        "invitation.v1.InvitationService/AcceptInvitation",
        json!({ "invitationId": invitation["id"] }),
    )
    .await;

    // No request has a say in what links begin with.
    let cem = world.invite("cem@example.com", json!({})).await;
    let channel = crate::raw::connect(suite.address).await;
    let mut client = InvitationServiceClient::new(channel);
    let mut copy = tonic::Request::new(GetInvitationLinkRequest {
        org_id: world.org.clone(),
        invitation_id: text(&cem["id"]),
    });
    let bearer = format!("Bearer {}", world.owner.token);
    copy.metadata_mut().insert("authorization", bearer.parse().unwrap());
    for name in ["x-forwarded-host", "x-forwarded-proto", "forwarded"] {
        copy.metadata_mut().insert(name, "evil.example".parse().unwrap());
    }
    let copied = client.get_invitation_link(copy).await.unwrap().into_inner().link;
    let base = format!("http://localhost:{}/invitations/", suite.address.port());
    assert!(copied.starts_with(&base), "{copied}");
    let unknown = http.get(format!("http://127.0.0.1:{}/invitations/none", suite.address.port()));
    assert_eq!(unknown.send().await.unwrap().status(), StatusCode::NOT_FOUND);
    let nowhere = http.get(format!("http://127.0.0.1:{}/", suite.address.port()));
    assert_eq!(nowhere.send().await.unwrap().status(), StatusCode::NOT_FOUND);
    suite.finish().await;
}

/// 3.5: every refusal that a person can meet says on the page what to do.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_says_why_not_and_what_to_do() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let http = Client::new();
    let look = async |link: &str| http.get(link).send().await.unwrap().text().await.unwrap();
    let sign_in = async |link: &str, email: &str| {
        let form = [("do", "accept"), ("email", email), ("password", PASSWORD)];
        http.post(link).form(&form).send().await.unwrap().text().await.unwrap()
    };
    let (bob, cem) = (suite.person("bob@example.com").await, suite.person("cem@example.com").await);

    let invitation = world.invite(&bob.email, json!({ "expiresInDays": 1 })).await;
    let revoked = link(&suite, &bob.email).await;
    assert!(sign_in(&revoked, &cem.email).await.contains("sign in with that account"));
    let wrong = [("do", "accept"), ("email", "bob@example.com"), ("password", "not the password")];
    let wrong = http.post(&revoked).form(&wrong).send().await.unwrap().text().await.unwrap();
    assert!(wrong.contains("role=\"alert\""), "{wrong}");
    let revoke = world.here(json!({ "invitationId": invitation["id"] }));
    world.owner.tell("invitation.v1.InvitationService/RevokeInvitation", revoke).await;
    assert!(look(&revoked).await.contains("was withdrawn; ask whoever invited you"));

    // One seat is left, then none.
    world.invite("many@example.com", json!({ "maxUses": 5 })).await;
    let open = link(&suite, "many@example.com").await;
    world.owner.change_plan(&world.org, api::identity::Plan::Starter).await.unwrap();
    assert!(sign_in(&open, &bob.email).await.contains("Welcome to acme"));
    let full = sign_in(&open, &cem.email).await;
    assert!(
        full.contains("The organization is full") && full.contains("ask an administrator"),
        "{full}"
    );
    let again = sign_in(&open, &bob.email).await;
    assert!(again.contains("You accepted this invitation already"), "{again}");
    // An account that was opened for nothing is told, and works later.
    world.owner.change_plan(&world.org, api::identity::Plan::Pro).await.unwrap();
    world.invite("dan@example.com", json!({})).await;
    world.owner.change_plan(&world.org, api::identity::Plan::Starter).await.unwrap();
    let dan = link(&suite, "dan@example.com").await;
    let form = [("do", "sign-up"), ("password", PASSWORD)];
    let but = http.post(&dan).form(&form).send().await.unwrap().text().await.unwrap();
    assert!(but.contains("Your account was created, but: the organization is full"), "{but}");
    let twice = http.post(&dan).form(&form).send().await.unwrap().text().await.unwrap();
    assert!(twice.contains("This address has an account already; sign in below."), "{twice}");
    let member = sign_in(&open, &world.viewer.email).await;
    assert!(member.contains("You are a member of this organization already"), "{member}");

    suite.clock.advance(Duration::days(8));
    assert!(look(&open).await.contains("time is over; ask whoever invited you"));
    eventually("the telling", async || {
        let told = "select count(*) from invitation.invitation where expiry_told_at is not null";
        (suite.count(told).await >= 4).then_some(())
    })
    .await;
    suite.finish().await;
}

/// Who has a second factor is asked for its code on the page, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_asks_for_the_second_factor() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let bob = suite.person("bob@example.com").await;
    let enrolled = bob.tell("identity.v1.SecondFactorService/EnrollTotp", json!({})).await;
    let secret = data_encoding::BASE32_NOPAD.decode(text(&enrolled["secret"]).as_bytes()).unwrap();
    let code = || {
        let totp = totp_rs::Builder::new().with_secret(secret.clone()).build_noncompliant();
        totp.generate(suite.clock.now().unix_timestamp().try_into().unwrap()).to_string()
    };
    bob.tell("identity.v1.SecondFactorService/ConfirmTotp", json!({ "code": code() })).await;
    suite.clock.advance(Duration::seconds(60));
    world.invite(&bob.email, json!({})).await;
    let (http, link) = (Client::new(), link(&suite, &bob.email).await);
    let post = async |form: &[(&str, &str)]| {
        http.post(&link).form(form).send().await.unwrap().text().await.unwrap()
    };
    let asked = post(&[("do", "accept"), ("email", &bob.email), ("password", PASSWORD)]).await;
    let challenge = asked.split("name=\"challenge\" value=\"").nth(1).unwrap();
    let challenge = challenge.split('"').next().unwrap();
    let wrong = post(&[("do", "code-accept"), ("challenge", challenge), ("code", "000000")]).await;
    assert!(wrong.contains("role=\"alert\""), "{wrong}");
    let done = post(&[("do", "code-accept"), ("challenge", challenge), ("code", &code())]).await;
    assert!(done.contains("Welcome to acme"), "{done}");
    suite.finish().await;
}
