//! What nobody should send, sent.

use api::identity as id;
use prost::Message;
use testkit::{Options, Suite};
use tonic::Code;

use crate::raw::{self, reason};

#[tokio::test(flavor = "multi_thread")]
async fn strange_bytes_and_characters_are_refused_at_the_edge() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let channel = raw::connect(suite.address).await;
    let method = "tenantry.identity.v1.OrganizationService/CreateOrganization";
    let name = |name: &str| {
        id::CreateOrganizationRequest { name: name.to_owned(), ..Default::default() }
            .encode_to_vec()
    };
    let strange = [
        "a\0b",
        "a\nb",
        "a\u{7f}b",
        "a\u{202e}b",
        "a\u{2066}b",
        "a\u{200b}b",
        "a\u{feff}b",
        "\u{1b}[31m",
    ];
    for text in strange {
        let status = raw::call(&channel, method, Some(&ann.token), name(text)).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::InvalidArgument, "INVALID_FIELD"),
            "{text:?}"
        );
    }
    // Field 1, two bytes that are no UTF-8; a length that lies; a group that never ends.
    for bytes in [vec![0x0a, 2, 0xc3, 0x28], vec![0x0a, 99, b'a'], vec![0x0b, 0x0b]] {
        let status = raw::call(&channel, method, Some(&ann.token), bytes).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::InvalidArgument, "MALFORMED_REQUEST")
        );
    }
    let huge = name(&"a".repeat(5 * 1024 * 1024));
    let status = raw::call(&channel, method, Some(&ann.token), huge).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::ResourceExhausted, "MESSAGE_TOO_LARGE")
    );
    let status = raw::call(&channel, "tenantry.identity.v1.UserService/Nope", None, vec![])
        .await
        .unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unimplemented, "UNKNOWN_METHOD"));
    suite.finish().await;
}

/// All violations of one request in one answer, for whoever is allowed to send it.
#[tokio::test(flavor = "multi_thread")]
async fn every_violation_is_told_at_once() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let org_id = ann.create_organization("acme").await.unwrap();
    let invite = api::invitation::CreateInvitationRequest {
        org_id,
        email: "x".to_owned(),
        role: id::OrgRole::Owner.into(),
        expires_in_days: 31,
        max_uses: Some(0),
        message: "a".repeat(501),
        project_access: vec![id::ProjectAccess { project_id: "x".to_owned(), role: 9 }],
        request_id: "x".to_owned(),
        team_ids: vec!["x".to_owned()],
    };
    let channel = raw::connect(suite.address).await;
    let method = "tenantry.invitation.v1.InvitationService/CreateInvitation";
    let status =
        raw::call(&channel, method, Some(&ann.token), invite.encode_to_vec()).await.unwrap_err();
    let fields = [
        "email",
        "role",
        "expires_in_days",
        "max_uses",
        "message",
        "project_access[0].project_id",
        "project_access[0].role",
        "request_id",
        "team_ids[0]",
    ];
    for field in fields {
        assert!(status.message().contains(&format!("{field} ")), "{field} in {}", status.message());
    }
    suite.finish().await;
}

/// 9.15: another tenant's ids, and ids of nothing, answer alike.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_and_unknown_ids_are_not_found() {
    let suite = Suite::start().await;
    let (ann, eve) = (suite.person("ann@example.com").await, suite.person("eve@example.com").await);
    let acme = ann.create_organization("acme").await.unwrap();
    let evil = eve.create_organization("evil").await.unwrap();
    let project_id = crate::authorization::create_project(&ann, &acme).await;
    let nothing = chassis::id::new().to_string();
    let get = |org_id: &str, project_id: &str| api::project::GetProjectRequest {
        org_id: org_id.to_owned(),
        project_id: project_id.to_owned(),
    };
    for (org_id, project) in
        [(&acme, &project_id), (&evil, &project_id), (&evil, &nothing), (&nothing, &nothing)]
    {
        let got: Result<api::project::GetProjectResponse, _> = eve
            .client
            .call("tenantry.project.v1.ProjectService/GetProject", get(org_id, project))
            .await;
        let refused = got.unwrap_err();
        assert_eq!((refused.code, refused.reason.as_str()), (Code::NotFound, "NOT_FOUND"));
    }
    // A token of one list is no token of another.
    let list = id::ListOrganizationsRequest {
        page_size: 1,
        page_token: "AAAA".to_owned(),
        ..Default::default()
    };
    let listed: Result<id::ListOrganizationsResponse, _> =
        ann.client.call("tenantry.identity.v1.OrganizationService/ListOrganizations", list).await;
    assert_eq!(listed.unwrap_err().reason, "INVALID_PAGE_TOKEN");
    suite.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_is_good_for_one_request() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let request = |name: &str| id::CreateOrganizationRequest {
        name: name.to_owned(),
        slug: String::new(),
        request_id: "0193a4b2-7c00-7000-8000-000000000001".to_owned(),
    };
    let method = "tenantry.identity.v1.OrganizationService/CreateOrganization";
    let first: id::CreateOrganizationResponse =
        ann.client.call(method, request("Acme")).await.unwrap();
    let again: id::CreateOrganizationResponse =
        ann.client.call(method, request("Acme")).await.unwrap();
    assert_eq!(first, again);
    let other: Result<id::CreateOrganizationResponse, _> =
        ann.client.call(method, request("Other")).await;
    assert_eq!(other.unwrap_err().reason, "REQUEST_ID_REUSED");
    suite.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_says_when_to_come_back() {
    let suite = Suite::start_with(Options { in_flight_max: 2, ..Options::default() }).await;
    let login = id::LoginRequest { email: "a@example.com".to_owned(), password: "x".repeat(20) }
        .encode_to_vec();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let (channel, login) = (raw::connect(suite.address).await, login.clone());
        let method = "tenantry.identity.v1.SessionService/Login";
        tasks.spawn(async move { raw::call(&channel, method, None, login).await.unwrap_err() });
    }
    let answers = tasks.join_all().await;
    let shed = answers
        .iter()
        .filter(|it| it.code() == Code::Unavailable && reason(it) == "OVERLOADED")
        .count();
    let served = answers.iter().filter(|it| reason(it) == "INVALID_LOGIN").count();
    assert!(shed > 0 && served > 0 && shed + served == 12, "{answers:?}");
    suite.finish().await;
}
