//! Texts as people type them: names, passwords, codes and addresses in all forms of Unicode.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use testkit::{PASSWORD, Suite};

use crate::support::{
    raw,
    world::{World, merge, text},
};

const USERS: &str = "identity.v1.UserService";
const SESSIONS: &str = "identity.v1.SessionService";
const PROJECTS: &str = "project.v1.ProjectService";

/// Search, order and uniqueness use keys that the program makes, so that they do not depend on the locale of
/// the database; the private one has the locale C.
#[tokio::test(flavor = "multi_thread")]
async fn names_are_found_ordered_and_compared_without_case_and_form() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let rename = json!({ "displayName": "Özlem", "updateMask": "displayName" });
    world.viewer.call_ok(&format!("{USERS}/UpdateProfile"), rename).await;
    for query in ["özlem", "ÖZLEM", "O\u{308}zlem", "viewer@"] {
        let list = world.org_request(json!({ "query": query }));
        let found = world.owner.call_ok("identity.v1.MemberService/ListMembers", list).await;
        assert_eq!(found["members"].as_array().map(Vec::len), Some(1), "{query}");
    }
    for name in ["Zebra", "Äpfel", "apfel", "Über uns"] {
        let create = world
            .org_request(json!({ "name": name, "repositoryUrl": "https://git.example.com/a.git" }));
        world.owner.call_ok(&format!("{PROJECTS}/CreateProject"), create).await;
    }
    let list = async |more: Value| {
        let request = world.org_request(more);
        let listed = world.owner.call_ok(&format!("{PROJECTS}/ListProjects"), request).await;
        let projects = listed["projects"].as_array().cloned().unwrap_or_default();
        projects.iter().map(|it| text(&it["name"])).collect::<Vec<_>>()
    };
    assert_eq!(list(json!({ "query": "über" })).await, ["Über uns"]);
    let by_name = list(json!({ "orderBy": "PROJECT_ORDER_NAME" })).await;
    assert_eq!(by_name, ["apfel", "Shop", "Zebra", "Äpfel", "Über uns"], "by key");
    world.create_team("Café", &[]).await;
    let again = world.org_request(json!({ "name": "CAFE\u{301}" }));
    let refused = world.owner.call_err("identity.v1.TeamService/CreateTeam", again).await;
    assert_eq!(refused, "TEAM_NAME_TAKEN");
    // Names without Latin letters get a slug, too.
    for (name, slug) in [("测试公司", "org"), ("HP", "org-hp")] {
        let method = "identity.v1.OrganizationService/CreateOrganization";
        let created = world.owner.call_ok(method, json!({ "name": name })).await;
        assert_eq!(created["organization"]["slug"], slug);
    }
    suite.finish().await;
}

/// I-29: a name has something to see, so that its deletion can be confirmed by typing it; letters of all
/// scripts, joined emoji, and line ends of browsers are accepted.
#[tokio::test(flavor = "multi_thread")]
async fn names_are_visible_and_texts_are_accepted_from_every_keyboard() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let repository = json!({ "repositoryUrl": "https://git.example.com/a.git" });
    let create_project = format!("{PROJECTS}/CreateProject");
    let names = [
        "   ",
        "\u{3164}\u{3164}",
        "\u{115f}\u{1160}",
        "\u{2800}\u{2800}",
        "a\u{202e}b",
        "a\u{200d}b",
        "\u{2ffe0}\u{2ffe0}",
    ];
    for name in names {
        let calls = [
            (
                create_project.as_str(),
                world.org_request(merge(repository.clone(), json!({ "name": name }))),
            ),
            ("identity.v1.TeamService/CreateTeam", world.org_request(json!({ "name": name }))),
            ("identity.v1.ApiKeyService/CreateApiKey", world.org_request(json!({ "name": name }))),
            ("identity.v1.OrganizationService/CreateOrganization", json!({ "name": name })),
            (
                "identity.v1.UserService/UpdateProfile",
                json!({ "displayName": name, "updateMask": "displayName" }),
            ),
            (
                "project.v1.ServerService/ConnectServer",
                world.org_request(json!({ "name": name, "address": "one.example.com" })),
            ),
            (
                "project.v1.EnvironmentService/CreateEnvironment",
                world.project_request(json!({ "name": name, "kind": "ENVIRONMENT_KIND_STAGING" })),
            ),
        ];
        for (method, request) in calls {
            let error = world.owner.client.call_json(method, request).await.unwrap_err();
            assert_eq!(error.reason, "INVALID_FIELD", "{method} {name:?}");
            let is_worded = error.message.contains("must contain a visible character")
                || error.message.contains("must not contain ");
            assert!(is_worded, "{}", error.message);
        }
    }
    let accepted = [
        "می\u{200c}خواهم",
        "ශ\u{dca}\u{200d}ර\u{dd3} ලංකා",
        "👩🏽\u{200d}🚀 Crew",
        "🏴\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f}",
        // A code point that is reserved for emoji.
        "\u{1faff}",
        "Cafe\u{301}",
    ];
    for name in accepted {
        let text = "one\r\ntwo\r\n";
        let create = json!({ "name": name, "description": text });
        let request = world.org_request(merge(repository.clone(), create.clone()));
        let created = world.owner.call_ok(&create_project, request).await;
        let project = &created["project"];
        assert_eq!(project["name"], name.replace("e\u{301}", "é"));
        assert_eq!(project["description"].as_str().unwrap().trim(), "one\ntwo");
        let team = world.org_request(create);
        world.owner.call_ok("identity.v1.TeamService/CreateTeam", team).await;
        let mut delete = world.org_request(json!({ "projectId": project["id"], "confirm": true }));
        let method = format!("{PROJECTS}/DeleteProject");
        for confirm_name in ["", "   "] {
            let request = merge(delete.clone(), json!({ "confirmName": confirm_name }));
            world.owner.client.call_json(&method, request).await.unwrap_err();
        }
        delete["confirmName"] = json!(name);
        world.owner.call_ok(&method, delete).await;
    }
    let message = json!({ "message": "Hello,\r\nsee you \u{1f469}\u{200d}\u{1f680}" });
    world.invite("guest@example.com", message).await;
    suite.finish().await;
}

/// I-28: a password is the same whether a keyboard composes its letters or not; and addresses are read
/// without the spaces around them.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_accepted_in_every_form_of_its_letters() {
    let suite = Suite::start().await;
    let composed = "ein sch\u{f6}nes Caf\u{e9}";
    let decomposed = "ein scho\u{308}nes\u{a0}Cafe\u{301}";
    let register = json!({ "email": " ann@example.com ", "password": composed });
    suite.client.call_json(&format!("{USERS}/Register"), register).await.unwrap();
    for password in [composed, decomposed] {
        let login = json!({ "email": "ann@example.com ", "password": password });
        suite.client.call_json(&format!("{SESSIONS}/Login"), login).await.unwrap();
    }
    let nobody = json!({ "email": "ann@x" });
    let method = format!("{USERS}/RequestPasswordReset");
    let refused = suite.client.call_json(&method, nobody).await.unwrap_err();
    assert_eq!(refused.reason, "INVALID_FIELD");
    suite.finish().await;
}

/// Fields of the contract in which a password is set.
const SET: [&str; 6] = [
    "tenantry.identity.v1.ChangePasswordRequest.new_password",
    "tenantry.identity.v1.RegisterInvitedRequest.password",
    "tenantry.identity.v1.RegisterRequest.password",
    "tenantry.identity.v1.ResetPasswordRequest.new_password",
    "tenantry.identity.v1.VerifyEmailRequest.new_password",
    "tenantry.invitation.v1.SignUpRequest.password",
];

/// Fields of the contract in which a password is compared.
const COMPARED: [&str; 6] = [
    "tenantry.identity.v1.ChangePasswordRequest.current_password",
    "tenantry.identity.v1.ConfirmEmailChangeRequest.password",
    "tenantry.identity.v1.LoginRequest.password",
    "tenantry.identity.v1.ReauthenticateRequest.password",
    "tenantry.identity.v1.RequestEmailChangeRequest.password",
    "tenantry.identity.v1.VerifyEmailRequest.password",
];

/// I-28: the rules for new passwords hold on every way of setting one. `SignUp` calls `RegisterInvited`.
#[tokio::test(flavor = "multi_thread")]
async fn every_way_of_setting_a_password_refuses_the_same_ones() {
    let fields = raw::methods().into_iter().flat_map(|it| it.input().fields().collect::<Vec<_>>());
    let passwords = fields.filter(|it| it.name().contains("password"));
    let of_contract: BTreeSet<String> = passwords.map(|it| it.full_name().to_owned()).collect();
    let known: BTreeSet<String> = SET.iter().chain(&COMPARED).map(|it| (*it).to_owned()).collect();
    assert_eq!(of_contract, known);

    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let ann = suite.person("ann@example.com").await;
    let register = json!({ "email": "new@example.com", "password": PASSWORD });
    suite.client.call_json(&format!("{USERS}/Register"), register).await.unwrap();
    let verify = suite.mailbox.token("new@example.com", "tny_ver_").await.unwrap();
    let request = json!({ "email": ann.email });
    suite.client.call_json(&format!("{USERS}/RequestPasswordReset"), request).await.unwrap();
    let reset = suite.mailbox.token(&ann.email, "tny_rst_").await.unwrap();
    world.invite("guest@example.com", json!({})).await;
    let invitation = suite.mailbox.token("guest@example.com", "tny_inv_").await.unwrap();
    let ways = [
        ("UserService/Register", json!({ "email": "guest@example.com" }), "password", "guest"),
        ("UserService/VerifyEmail", json!({ "token": verify }), "newPassword", "new"),
        ("UserService/ResetPassword", json!({ "token": reset }), "newPassword", "ann"),
        (
            "UserService/ChangePassword",
            json!({ "currentPassword": PASSWORD }),
            "newPassword",
            "ann",
        ),
        ("InvitationService/SignUp", json!({ "token": invitation }), "password", "guest"),
    ];
    for (method, request, field, name) in ways {
        let package = if method.starts_with("User") { "identity.v1" } else { "invitation.v1" };
        let weak = [
            "PasswordPassword".to_owned(),
            format!("{}@EXAMPLE.com", name.to_uppercase()),
            "a long\tpassword".to_owned(),
        ];
        for password in weak {
            let call = merge(request.clone(), json!({ field: password }));
            let refused = ann.call_err(&format!("{package}.{method}"), call).await;
            assert_eq!(refused, "INVALID_FIELD", "{method} {password:?}");
        }
    }
    suite.finish().await;
}
