//! Authorization matrix: every method called by every kind of caller, compared with a golden table.

use api::{identity as id, project as prj};
use chassis::rule::{Audience, Rules};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage, Value};
use testkit::Suite;
use tonic::Code;

use crate::{
    invitation::acceptance::{accept, invite},
    support::{raw, world::create_project},
};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/authorization.txt");

/// Kinds of callers: the columns of the table.
const CALLERS: [&str; 6] = ["anonymous", "stranger", "viewer", "developer", "admin", "owner"];

/// PE-1, PE-17, PL-17: the callers of each method.
#[tokio::test(flavor = "multi_thread")]
async fn the_authorization_matrix_is_as_recorded() {
    let suite = Suite::start().await;
    let owner = suite.person("owner@example.com").await;
    let org_id = owner.create_organization("acme").await.unwrap();
    let project_id = create_project(&owner, &org_id).await;
    let mut people = vec![suite.person("stranger@example.com").await];
    for role in [id::OrgRole::Viewer, id::OrgRole::Developer, id::OrgRole::Admin] {
        let person = suite.person(&format!("role{}@example.com", role as i32)).await;
        // The viewer and the developer have that role on the project too, the admin has none (ID-38).
        let access = match role {
            id::OrgRole::Viewer => vec![(project_id.clone(), id::ProjectRole::Viewer)],
            id::OrgRole::Developer => vec![(project_id.clone(), id::ProjectRole::Developer)],
            _ => vec![],
        };
        invite(&owner, &org_id, &person.email, role, 1, access).await.unwrap();
        accept(&suite, &person).await.unwrap();
        people.push(person);
    }
    people.push(owner);

    let channel = raw::connect(suite.address).await;
    let rules = Rules::load(api::DESCRIPTORS).unwrap();
    let mut table = format!("{:<70} {}\n", "method", CALLERS.join(" "));
    let mut methods = raw::methods();
    methods.sort_by_key(raw::name);
    for method in methods {
        let name = raw::name(&method);
        let rule = rules.get(&format!("/{name}")).unwrap();
        if !matches!(rule.audience, Audience::Permission(_)) {
            continue;
        }
        // The request id is invalid, so that no call changes anything. Authorization comes before validation,
        // so allowed callers get INVALID_ARGUMENT, or the response of a read.
        let body = request(method.input().full_name(), &org_id, &project_id);
        let mut row = format!("{name:<70}");
        for (i, caller) in CALLERS.iter().enumerate() {
            let token = (i > 0).then(|| people[i - 1].token.as_str());
            let answer = raw::call(&channel, &name, token, body.clone()).await;
            row += &format!(" {:<width$}", verdict(answer.as_ref().err()), width = caller.len());
        }
        table += &format!("{}\n", row.trim_end());
    }
    suite.finish().await;
    compare(&table);
}

/// An encoded request with these ids and an invalid request id, in the fields that the message has.
fn request(message: &str, org_id: &str, project_id: &str) -> Vec<u8> {
    let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
    let mut message = DynamicMessage::new(pool.get_message_by_name(message).unwrap());
    for (field, id) in [("org_id", org_id), ("project_id", project_id), ("request_id", "x")] {
        if message.descriptor().get_field_by_name(field).is_some() {
            message.set_field_by_name(field, Value::String(id.to_owned()));
        }
    }
    message.encode_to_vec()
}

/// A cell of the table: `yes`, `no` (permission denied), `404` (not visible), `401` (sign-in required).
fn verdict(error: Option<&tonic::Status>) -> &'static str {
    match error.map(tonic::Status::code) {
        None | Some(Code::InvalidArgument | Code::FailedPrecondition) => "yes",
        Some(Code::PermissionDenied) => "no",
        Some(Code::NotFound) => "404",
        Some(Code::Unauthenticated) => "401",
        Some(other) => panic!("{other:?}: {error:?}"),
    }
}

fn compare(table: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(GOLDEN, table).unwrap();
    }
    let golden = std::fs::read_to_string(GOLDEN).unwrap_or_default();
    assert_eq!(
        table, golden,
        "the authorization matrix has changed; if intended, run: cargo xtask gen"
    );
}

/// ID-19, ID-48: a granted role takes effect for the next call, and the grant is logged.
#[tokio::test(flavor = "multi_thread")]
async fn an_admin_enters_a_project_by_a_logged_grant_only() {
    let suite = Suite::start().await;
    let owner = suite.person("owner@example.com").await;
    let org_id = owner.create_organization("acme").await.unwrap();
    let project_id = create_project(&owner, &org_id).await;
    let admin = suite.person("admin@example.com").await;
    invite(&owner, &org_id, &admin.email, id::OrgRole::Admin, 1, vec![]).await.unwrap();
    accept(&suite, &admin).await.unwrap();

    let list = prj::ListEnvironmentsRequest {
        org_id: org_id.clone(),
        project_id: project_id.clone(),
        ..Default::default()
    };
    let method = "tenantry.project.v1.EnvironmentService/ListEnvironments";
    let listed: Result<prj::ListEnvironmentsResponse, _> =
        admin.client.call(method, list.clone()).await;
    assert_eq!(listed.unwrap_err().code, Code::NotFound);
    let get = prj::GetProjectRequest { org_id: org_id.clone(), project_id: project_id.clone() };
    let shown: prj::GetProjectResponse =
        admin.client.call("tenantry.project.v1.ProjectService/GetProject", get).await.unwrap();
    assert_eq!(shown.project.unwrap().name, "Shop");

    let set = id::SetProjectAccessRequest {
        org_id,
        project_id,
        principal: Some(id::Principal {
            principal: Some(id::principal::Principal::UserId(admin.user_id.clone())),
        }),
        role: id::ProjectRole::Viewer.into(),
        ..Default::default()
    };
    let grant_method = "tenantry.identity.v1.ProjectAccessService/SetProjectAccess";
    let _: id::SetProjectAccessResponse = admin.client.call(grant_method, set).await.unwrap();
    let listed: Result<prj::ListEnvironmentsResponse, _> = admin.client.call(method, list).await;
    assert!(listed.unwrap().environments.is_empty());
    suite.wait_for_log().await;
    assert_eq!(suite.count_entries("project.access_granted").await, 1);
    suite.finish().await;
}
