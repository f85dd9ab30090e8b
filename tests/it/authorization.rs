//! Every method × every kind of caller, by real calls, compared with a golden table: a change of who may
//! do what is a readable diff.

use api::{identity as id, project as prj};
use chassis::rule::{Audience, Rules};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage, Value};
use tenantry::client::Refusal;
use testkit::{Person, Suite};
use tonic::Code;

use crate::{
    invitations::{accept, invite},
    raw,
};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/authorization.txt");

/// Whose table it is, in the order of its columns.
const CALLERS: [&str; 6] = ["anonymous", "stranger", "viewer", "developer", "admin", "owner"];

/// PE-1, PE-17, PL-17, and section 6: who may call what.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_do_what_is_as_written() {
    let suite = Suite::start().await;
    let owner = suite.person("owner@example.com").await;
    let org_id = owner.create_organization("acme").await.unwrap();
    let project_id = create_project(&owner, &org_id).await;
    let mut people = vec![suite.person("stranger@example.com").await];
    for role in [id::OrgRole::Viewer, id::OrgRole::Developer, id::OrgRole::Admin] {
        let person = suite.person(&format!("role{}@example.com", role as i32)).await;
        // A viewer and a developer have that role on the project, too; an admin has none (ID-38).
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
        // Only the ids of the place, and a request id that is none: whoever is allowed gets INVALID_ARGUMENT
        // or the answer of a read, because authorization comes before validation.
        let body = place(method.input().full_name(), &org_id, &project_id);
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

fn place(message: &str, org_id: &str, project_id: &str) -> Vec<u8> {
    let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
    let mut message = DynamicMessage::new(pool.get_message_by_name(message).unwrap());
    for (field, id) in [("org_id", org_id), ("project_id", project_id), ("request_id", "x")] {
        if message.descriptor().get_field_by_name(field).is_some() {
            message.set_field_by_name(field, Value::String(id.to_owned()));
        }
    }
    message.encode_to_vec()
}

/// `yes`, `no` (may know, may not do), `404` (may not know), `401` (must sign in).
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
    assert_eq!(table, golden, "who may do what has changed; if that is meant: cargo xtask gen");
}

/// A project without a repository that works; answers its id.
pub(crate) async fn create_project(owner: &Person, org_id: &str) -> String {
    let create = prj::CreateProjectRequest {
        org_id: org_id.to_owned(),
        name: "Shop".to_owned(),
        repository_url: "https://git.example.com/acme/shop.git".to_owned(),
        ..Default::default()
    };
    let created: Result<prj::CreateProjectResponse, Refusal> =
        owner.client.call("tenantry.project.v1.ProjectService/CreateProject", create).await;
    created.unwrap().project.unwrap().id
}

/// ID-19, ID-48: what a right that is lost or gained means for the very next call, and 9.10.
#[tokio::test(flavor = "multi_thread")]
async fn an_admin_enters_a_project_only_by_a_grant_that_the_log_tells() {
    let suite = Suite::start().await;
    let owner = suite.person("owner@example.com").await;
    let org_id = owner.create_organization("acme").await.unwrap();
    let project_id = create_project(&owner, &org_id).await;
    let admin = suite.person("admin@example.com").await;
    invite(&owner, &org_id, &admin.email, id::OrgRole::Admin, 1, vec![]).await.unwrap();
    accept(&suite, &admin).await.unwrap();

    let look = prj::ListEnvironmentsRequest {
        org_id: org_id.clone(),
        project_id: project_id.clone(),
        ..Default::default()
    };
    let method = "tenantry.project.v1.EnvironmentService/ListEnvironments";
    let looked: Result<prj::ListEnvironmentsResponse, _> =
        admin.client.call(method, look.clone()).await;
    assert_eq!(looked.unwrap_err().code, Code::NotFound);
    let get = prj::GetProjectRequest { org_id: org_id.clone(), project_id: project_id.clone() };
    let got: prj::GetProjectResponse =
        admin.client.call("tenantry.project.v1.ProjectService/GetProject", get).await.unwrap();
    assert_eq!(got.project.unwrap().name, "Shop");

    let set = id::SetProjectAccessRequest {
        org_id,
        project_id,
        principal: Some(id::Principal {
            principal: Some(id::principal::Principal::UserId(admin.user_id.clone())),
        }),
        role: id::ProjectRole::Viewer.into(),
        ..Default::default()
    };
    let method_set = "tenantry.identity.v1.ProjectAccessService/SetProjectAccess";
    let _: id::SetProjectAccessResponse = admin.client.call(method_set, set).await.unwrap();
    let looked: Result<prj::ListEnvironmentsResponse, _> = admin.client.call(method, look).await;
    assert!(looked.unwrap().environments.is_empty());
    suite.logged().await;
    assert_eq!(suite.told("project.access_granted").await, 1);
    suite.finish().await;
}
