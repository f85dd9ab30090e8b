//! Malformed and oversized requests, foreign ids, reused request ids, overload.

use api::identity as pb;
use prost::Message;
use testkit::{Options, Suite};
use tonic::Code;

use crate::support::{
    raw::{self, reason},
    world::create_project,
};

#[tokio::test(flavor = "multi_thread")]
async fn malformed_bytes_and_characters_are_rejected() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let channel = raw::connect(suite.address).await;
    let method = "tenantry.identity.v1.OrganizationService/CreateOrganization";
    let request = |name: &str| {
        pb::CreateOrganizationRequest { name: name.to_owned(), ..Default::default() }
            .encode_to_vec()
    };
    // Control, bidirectional and invisible characters, and a terminal's escape sequence.
    let invalid = [
        "a\0b",
        "a\nb",
        "a\u{7f}b",
        "a\u{202e}b",
        "a\u{2066}b",
        "a\u{200b}b",
        "a\u{feff}b",
        "\u{1b}[31m",
    ];
    for text in invalid {
        let status =
            raw::call(&channel, method, Some(&ann.token), request(text)).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::InvalidArgument, "INVALID_FIELD"),
            "{text:?}"
        );
    }
    // Invalid UTF-8, a field that is longer than the message, and a group without an end.
    for bytes in [vec![0x0a, 2, 0xc3, 0x28], vec![0x0a, 99, b'a'], vec![0x0b, 0x0b]] {
        let sent = format!("{bytes:x?}");
        let status = raw::call(&channel, method, Some(&ann.token), bytes).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::InvalidArgument, "MALFORMED_REQUEST"),
            "{sent}"
        );
    }
    let huge = request(&"a".repeat(5 * 1024 * 1024));
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

/// All violations of a request are reported in one response.
#[tokio::test(flavor = "multi_thread")]
async fn all_violations_are_reported_at_once() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let org_id = ann.create_organization("acme").await.unwrap();
    // Every field except `org_id` is malformed, of an unknown enum value, or just beyond its bounds.
    let invite = api::invitation::CreateInvitationRequest {
        org_id,
        email: "x".to_owned(),
        role: pb::OrgRole::Owner.into(),
        expires_in_days: 31,
        max_uses: Some(0),
        message: "a".repeat(501),
        project_access: vec![pb::ProjectAccess { project_id: "x".to_owned(), role: 9 }],
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

/// Ids of another tenant and unknown ids get the same error.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_and_unknown_ids_are_not_found() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let eve = suite.person("eve@example.com").await;
    let acme = ann.create_organization("acme").await.unwrap();
    let evil = eve.create_organization("evil").await.unwrap();
    let project_id = create_project(&ann, &acme).await;
    let unknown = chassis::id::new().to_string();
    let get = |org_id: &str, project_id: &str| api::project::GetProjectRequest {
        org_id: org_id.to_owned(),
        project_id: project_id.to_owned(),
    };
    for (org_id, project) in
        [(&acme, &project_id), (&evil, &project_id), (&evil, &unknown), (&unknown, &unknown)]
    {
        let result: Result<api::project::GetProjectResponse, _> = eve
            .client
            .call("tenantry.project.v1.ProjectService/GetProject", get(org_id, project))
            .await;
        let error = result.unwrap_err();
        assert_eq!(
            (error.code, error.reason.as_str()),
            (Code::NotFound, "NOT_FOUND"),
            "organization {org_id}, project {project}"
        );
    }
    // A page token that this server has not created.
    let list = pb::ListOrganizationsRequest {
        page_size: 1,
        page_token: "AAAA".to_owned(),
        ..Default::default()
    };
    let listed: Result<pb::ListOrganizationsResponse, _> =
        ann.client.call("tenantry.identity.v1.OrganizationService/ListOrganizations", list).await;
    assert_eq!(listed.unwrap_err().reason, "INVALID_PAGE_TOKEN");
    suite.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_identifies_one_request() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let request = |name: &str| pb::CreateOrganizationRequest {
        name: name.to_owned(),
        slug: String::new(),
        request_id: "0193a4b2-7c00-7000-8000-000000000001".to_owned(),
    };
    let method = "tenantry.identity.v1.OrganizationService/CreateOrganization";
    let first: pb::CreateOrganizationResponse =
        ann.client.call(method, request("Acme")).await.unwrap();
    let second: pb::CreateOrganizationResponse =
        ann.client.call(method, request("Acme")).await.unwrap();
    assert_eq!(first, second, "the repetition gets the response of the first call");
    let other: Result<pb::CreateOrganizationResponse, _> =
        ann.client.call(method, request("Other")).await;
    assert_eq!(other.unwrap_err().reason, "REQUEST_ID_REUSED");
    suite.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overloaded_server_rejects_calls() {
    let suite = Suite::start_with(Options { in_flight_max: 2, ..Options::default() }).await;
    let login = pb::LoginRequest { email: "a@example.com".to_owned(), password: "x".repeat(20) }
        .encode_to_vec();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let channel = raw::connect(suite.address).await;
        let login = login.clone();
        let method = "tenantry.identity.v1.SessionService/Login";
        tasks.spawn(async move { raw::call(&channel, method, None, login).await.unwrap_err() });
    }
    let answers = tasks.join_all().await;
    let overloaded = answers
        .iter()
        .filter(|it| it.code() == Code::Unavailable && reason(it) == "OVERLOADED")
        .count();
    let answered = answers.iter().filter(|it| reason(it) == "INVALID_LOGIN").count();
    let is_complete = overloaded + answered == 12;
    assert!(overloaded > 0, "no call was rejected: {answers:?}");
    assert!(answered > 0, "no call was processed: {answers:?}");
    assert!(is_complete, "a call has another outcome: {answers:?}");
    suite.finish().await;
}
