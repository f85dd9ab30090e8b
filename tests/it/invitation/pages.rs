//! Pages behind the links in mails: in a browser, and requested by link scanners and proxies.

use std::path::PathBuf;

use api::invitation::{
    GetInvitationLinkRequest, invitation_service_client::InvitationServiceClient,
};
use chassis::clock::Duration;
use reqwest::{Client, Method, StatusCode};
use serde_json::json;
use testkit::{Browser, PASSWORD, Suite, eventually};

use crate::support::{
    raw,
    world::{World, text},
};

/// The link in the newest mail to an address.
async fn link(suite: &Suite, to: &str) -> String {
    let token = suite.mailbox.token(to, "tny_inv_").await.unwrap();
    format!("http://127.0.0.1:{}/invitations/{token}", suite.address.port())
}

/// Folder of the screenshots.
fn screenshots() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("pages");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Checks that the page fits the screen and that its controls have accessible names.
async fn check_accessibility(browser: &Browser) {
    assert!(browser.fits_screen().await, "the page is wider than 320 pixels");
    let nodes = browser.accessible_names().await;
    for (role, name) in &nodes {
        let needs_name = ["textbox", "button", "heading"].contains(&role.as_str());
        assert!(!needs_name || !name.is_empty(), "a {role} has no name: {nodes:?}");
    }
    assert!(nodes.iter().any(|(role, _)| role == "main"), "{nodes:?}");
}

/// IN-18: from the mail to the membership without scripts on a screen of 320 pixels: sign-up, sign-in,
/// decline.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_leads_from_the_mail_to_the_membership() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let browser = Browser::start().await;
    let fields =
        json!({ "role": "ORG_ROLE_DEVELOPER", "message": "Welcome <b>Bob</b>!\nWe build shops." });
    world.invite("bob@example.com", fields).await;
    browser.open(&link(&suite, "bob@example.com").await).await;
    let shown = browser.text().await;
    for word in ["Join acme", "owner", "Developer", "b…@example.com", "Welcome <b>Bob</b>!", "UTC"]
    {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    check_accessibility(&browser).await;
    browser.screenshot(&screenshots().join("1-invitation.png")).await;

    browser.fill("input[autocomplete=name]", "Bob").await;
    browser.fill("input[autocomplete=new-password]", "bob@example.com").await;
    browser.click("button[value=sign-up]").await;
    let refused = browser.text().await;
    assert!(refused.to_lowercase().contains("password"), "{refused}");
    assert!(
        browser.accessible_names().await.iter().any(|it| it.0 == "alert"),
        "the error has the role alert"
    );
    check_accessibility(&browser).await;
    browser.screenshot(&screenshots().join("2-refused.png")).await;

    browser.fill("input[autocomplete=new-password]", PASSWORD).await;
    browser.click("button[value=sign-up]").await;
    let done = browser.text().await;
    assert!(done.contains("Welcome to acme") && done.contains("Developer"), "{done}");
    check_accessibility(&browser).await;
    browser.screenshot(&screenshots().join("3-member.png")).await;
    assert_eq!(suite.count("select count(*) from identity.member").await, 5);
    // The page leaves no session open.
    let sessions = "select count(*) from identity.session
                    join identity.account on account.id = session.user_id
                where account.email = 'bob@example.com' and session.revoked_at is null";
    assert_eq!(suite.count(sessions).await, 0);
    browser.open(&link(&suite, "bob@example.com").await).await;
    assert!(browser.text().await.contains("has no uses left"));
    browser.screenshot(&screenshots().join("4-used.png")).await;

    // Sign-in with an existing account; with another account the page names the right address.
    let cem = suite.person("cem@example.com").await;
    world.invite(&cem.email, json!({})).await;
    browser.open(&link(&suite, &cem.email).await).await;
    let sign_in = async |email: &str, action: &str| {
        browser.fill("input[autocomplete=username]", email).await;
        browser.fill("input[autocomplete=current-password]", PASSWORD).await;
        browser.click(&format!("button[value={action}]")).await;
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
    assert!(sign_in(&dan.email, "decline").await.contains("You declined the invitation"));
    browser.screenshot(&screenshots().join("5-declined.png")).await;
    suite.finish().await;
}

/// A link with several uses proves no address: a new account confirms its address by mail before it joins.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_with_several_uses_needs_a_confirmed_address() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let browser = Browser::start().await;
    world.invite("many@example.com", json!({ "maxUses": 3 })).await;
    let link = link(&suite, "many@example.com").await;
    browser.open(&link).await;
    browser.fill("input[autocomplete=email]", "eve@example.com").await;
    browser.fill("input[autocomplete=new-password]", PASSWORD).await;
    browser.click("button[value=sign-up]").await;
    assert!(browser.text().await.contains("Check your mailbox"));
    let token = suite.mailbox.token("eve@example.com", "tny_ver_").await.unwrap();
    browser.open(&format!("http://127.0.0.1:{}/verify/{token}", suite.address.port())).await;
    browser.screenshot(&screenshots().join("6-confirm.png")).await;
    browser.fill("input[autocomplete=current-password]", "not the password").await;
    browser.click("button[value=confirm]").await;
    assert!(browser.text().await.contains("password is wrong"));
    browser.fill("input[autocomplete=current-password]", PASSWORD).await;
    browser.click("button[value=confirm]").await;
    assert!(browser.text().await.contains("Your e-mail address is confirmed"));
    browser.open(&link).await;
    browser.fill("input[autocomplete=username]", "eve@example.com").await;
    browser.fill("input[autocomplete=current-password]", PASSWORD).await;
    browser.click("button[value=accept]").await;
    assert!(browser.text().await.contains("Welcome to acme"));
    suite.finish().await;
}

/// GET and HEAD requests and forged headers change nothing; pages are not cached.
#[tokio::test(flavor = "multi_thread")]
async fn requests_of_link_scanners_change_nothing() {
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
    // A form without an action changes nothing.
    let empty = http.post(&link).form(&[("email", "bob@example.com")]).send().await.unwrap();
    assert_eq!(empty.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let large = "x".repeat(70_000);
    let large = http.post(&link).form(&[("email", &large)]).send().await.unwrap();
    assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
    bob.call_ok(
        "invitation.v1.InvitationService/AcceptInvitation",
        json!({ "invitationId": invitation["id"] }),
    )
    .await;

    // Headers of a request do not change the base URL of links.
    let cem = world.invite("cem@example.com", json!({})).await;
    let channel = raw::connect(suite.address).await;
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
    let root = http.get(format!("http://127.0.0.1:{}/", suite.address.port()));
    assert_eq!(root.send().await.unwrap().status(), StatusCode::NOT_FOUND);
    suite.finish().await;
}

/// Every refusal on a page names its reason and the remedy.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_names_reason_and_remedy_of_a_refusal() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let http = Client::new();
    let page = async |link: &str| http.get(link).send().await.unwrap().text().await.unwrap();
    let sign_in = async |link: &str, email: &str| {
        let form = [("do", "accept"), ("email", email), ("password", PASSWORD)];
        http.post(link).form(&form).send().await.unwrap().text().await.unwrap()
    };
    let bob = suite.person("bob@example.com").await;
    let cem = suite.person("cem@example.com").await;

    let invitation = world.invite(&bob.email, json!({ "expiresInDays": 1 })).await;
    let revoked = link(&suite, &bob.email).await;
    assert!(sign_in(&revoked, &cem.email).await.contains("sign in with that account"));
    let wrong = [("do", "accept"), ("email", "bob@example.com"), ("password", "not the password")];
    let wrong = http.post(&revoked).form(&wrong).send().await.unwrap().text().await.unwrap();
    assert!(wrong.contains("role=\"alert\""), "{wrong}");
    let revoke = world.org_request(json!({ "invitationId": invitation["id"] }));
    world.owner.call_ok("invitation.v1.InvitationService/RevokeInvitation", revoke).await;
    assert!(page(&revoked).await.contains("was revoked; ask the person who invited you"));

    // One free seat, then none.
    world.invite("many@example.com", json!({ "maxUses": 5 })).await;
    let open = link(&suite, "many@example.com").await;
    world.owner.change_plan(&world.org, api::identity::Plan::Starter).await.unwrap();
    assert!(sign_in(&open, &bob.email).await.contains("Welcome to acme"));
    let full = sign_in(&open, &cem.email).await;
    assert!(
        full.contains("5 members that its plan or its paid seats allow")
            && full.contains("ask an administrator"),
        "{full}"
    );
    let second = sign_in(&open, &bob.email).await;
    assert!(second.contains("You have already accepted this invitation"), "{second}");
    // A sign-up without a free seat keeps the account.
    world.owner.change_plan(&world.org, api::identity::Plan::Pro).await.unwrap();
    world.invite("dan@example.com", json!({})).await;
    world.owner.change_plan(&world.org, api::identity::Plan::Starter).await.unwrap();
    let dan = link(&suite, "dan@example.com").await;
    let form = [("do", "sign-up"), ("password", PASSWORD)];
    let signed_up = http.post(&dan).form(&form).send().await.unwrap().text().await.unwrap();
    let refused =
        "Your account was created, but you did not join: the organization has the 5 members";
    assert!(signed_up.contains(refused), "{signed_up}");
    let second = http.post(&dan).form(&form).send().await.unwrap().text().await.unwrap();
    assert!(second.contains("This address has an account already; sign in below."), "{second}");
    let member = sign_in(&open, &world.viewer.email).await;
    assert!(member.contains("You are already a member of this organization"), "{member}");

    suite.clock.advance(Duration::days(8));
    assert!(page(&open).await.contains("has expired; ask the person who invited you"));
    eventually("the expiry events", async || {
        let expired =
            "select count(*) from invitation.invitation where expiry_event_at is not null";
        (suite.count(expired).await >= 4).then_some(())
    })
    .await;
    suite.finish().await;
}

/// The page asks accounts with a second factor for a code.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_asks_for_the_second_factor() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let bob = suite.person("bob@example.com").await;
    let enrolled = bob.call_ok("identity.v1.SecondFactorService/EnrollTotp", json!({})).await;
    let secret = data_encoding::BASE32_NOPAD.decode(text(&enrolled["secret"]).as_bytes()).unwrap();
    let code = || {
        let totp = totp_rs::Builder::new().with_secret(secret.clone()).build_noncompliant();
        totp.generate(suite.clock.now().unix_timestamp().try_into().unwrap()).to_string()
    };
    bob.call_ok("identity.v1.SecondFactorService/ConfirmTotp", json!({ "code": code() })).await;
    suite.clock.advance(Duration::seconds(60));
    world.invite(&bob.email, json!({})).await;
    let http = Client::new();
    let link = link(&suite, &bob.email).await;
    let post = async |form: &[(&str, &str)]| {
        http.post(&link).form(form).send().await.unwrap().text().await.unwrap()
    };
    let code_page = post(&[("do", "accept"), ("email", &bob.email), ("password", PASSWORD)]).await;
    let challenge = code_page.split("name=\"challenge\" value=\"").nth(1).unwrap();
    let challenge = challenge.split('"').next().unwrap();
    let wrong = post(&[("do", "code-accept"), ("challenge", challenge), ("code", "000000")]).await;
    assert!(wrong.contains("role=\"alert\""), "{wrong}");
    let done = post(&[("do", "code-accept"), ("challenge", challenge), ("code", &code())]).await;
    assert!(done.contains("Welcome to acme"), "{done}");
    suite.finish().await;
}
