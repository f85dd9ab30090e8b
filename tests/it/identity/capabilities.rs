//! The capability table of the product: nine rows for four roles, by calls that take effect, and the same
//! rows for their API keys.

use serde_json::{Value, json};
use testkit::{GitServer, Named, Options, Person, Repository, Suite};
use tonic::Code;

use crate::{
    project::dns_connection_service::by_rfc2136,
    support::{
        fake_runner::FakeRunner,
        world::{World, merge, new_member, text},
    },
};

/// One row of the table.
struct Row {
    capability: &'static str,
    /// Roles that have it: Owner, Admin, Developer, Viewer.
    roles: [bool; 4],
    /// Calls that need it, for the person with an index.
    calls: fn(&Organization, usize) -> Vec<Call>,
    /// True if API keys have it, too.
    keys: bool,
}

/// Method and request of a call.
type Call = (&'static str, Value);

const ROLES: [&str; 4] = ["OWNER", "ADMIN", "DEVELOPER", "VIEWER"];

/// The table, in its own words and order.
const TABLE: [Row; 9] = [
    Row {
        capability: "View projects and environments",
        roles: [true, true, true, true],
        calls: view,
        keys: true,
    },
    Row {
        capability: "Deploy environments",
        roles: [true, true, true, false],
        calls: deploy,
        keys: true,
    },
    Row {
        capability: "Create projects",
        roles: [true, true, true, false],
        calls: create_project,
        keys: true,
    },
    Row {
        capability: "Invite and remove members",
        roles: [true, true, false, false],
        calls: invite_and_remove,
        keys: false,
    },
    Row {
        capability: "Change member roles",
        roles: [true, true, false, false],
        calls: change_role,
        keys: false,
    },
    Row {
        capability: "Manage teams",
        roles: [true, true, false, false],
        calls: manage_teams,
        keys: false,
    },
    Row {
        capability: "Configure storage, DNS, Git",
        roles: [true, true, false, false],
        calls: configure_connections,
        keys: false,
    },
    Row {
        capability: "Access billing and subscriptions",
        roles: [true, false, false, false],
        calls: billing,
        keys: false,
    },
    Row {
        capability: "Delete organization",
        roles: [true, false, false, false],
        calls: delete_organization,
        keys: false,
    },
];

/// An organization whose four people are all in the project, with the same grant.
struct Organization {
    runner: FakeRunner,
    /// An environment for each person.
    environments: Vec<String>,
    /// Members that people remove.
    removable: Vec<Person>,
    /// A member whose role people change.
    changeable: Person,
    /// Server of Git connections.
    git: GitServer,
    /// Server of DNS connections.
    named: Named,
}

/// Password of the account `git` of the Git server.
const GIT_PASSWORD: &str = "git-passw0rd";

impl Organization {
    async fn new(suite: &Suite, git: GitServer, named: Named) -> Self {
        let runner = FakeRunner::new(suite).await;
        runner.heartbeat().await;
        let world = &runner.hosting.world;
        for person in [&world.admin, &world.developer, &world.viewer] {
            world.grant(json!({ "userId": person.user_id }), "DEVELOPER").await;
        }
        let mut environments = vec![];
        let mut removable = vec![];
        for role in ROLES {
            let name = role.to_lowercase();
            environments.push(runner.environment(&name).await);
            let email = format!("removable.{name}@example.com");
            removable.push(new_member(suite, &world.owner, &world.org, &email, "VIEWER").await);
        }
        let email = "changeable@example.com";
        let changeable = new_member(suite, &world.owner, &world.org, email, "VIEWER").await;
        Self { runner, environments, removable, changeable, git, named }
    }

    fn world(&self) -> &World {
        &self.runner.hosting.world
    }

    fn people(&self) -> [&Person; 4] {
        let world = self.world();
        [&world.owner, &world.admin, &world.developer, &world.viewer]
    }
}

fn view(organization: &Organization, _: usize) -> Vec<Call> {
    let project = organization.world().project_request(json!({}));
    vec![
        ("project.v1.ProjectService/GetProject", project.clone()),
        ("project.v1.EnvironmentService/ListEnvironments", project),
    ]
}

fn deploy(organization: &Organization, person: usize) -> Vec<Call> {
    let environment = json!({ "environmentId": organization.environments[person] });
    let request = organization.world().project_request(environment);
    vec![("project.v1.EnvironmentService/DeployEnvironment", request)]
}

fn create_project(organization: &Organization, person: usize) -> Vec<Call> {
    let name = format!("Shop of {}", ROLES[person]);
    let project = json!({ "name": name, "repositoryUrl": "https://git.example.com/a.git" });
    vec![("project.v1.ProjectService/CreateProject", organization.world().org_request(project))]
}

fn invite_and_remove(organization: &Organization, person: usize) -> Vec<Call> {
    let email = format!("invited.{person}@example.com");
    let invite = json!({ "email": email, "role": "ORG_ROLE_VIEWER" });
    let remove = json!({ "userId": organization.removable[person].user_id });
    let world = organization.world();
    vec![
        ("invitation.v1.InvitationService/CreateInvitation", world.org_request(invite)),
        ("identity.v1.MemberService/RemoveMember", world.org_request(remove)),
    ]
}

fn change_role(organization: &Organization, _: usize) -> Vec<Call> {
    let user_id = &organization.changeable.user_id;
    let change = json!({ "userId": user_id, "role": "ORG_ROLE_DEVELOPER" });
    let change = organization.world().org_request(change);
    vec![("identity.v1.MemberService/ChangeMemberRole", change)]
}

fn manage_teams(organization: &Organization, person: usize) -> Vec<Call> {
    let team = json!({ "name": format!("Team of {}", ROLES[person]) });
    vec![("identity.v1.TeamService/CreateTeam", organization.world().org_request(team))]
}

fn billing(organization: &Organization, _: usize) -> Vec<Call> {
    let request = |more| organization.world().org_request(more);
    vec![
        ("identity.v1.BillingService/GetSubscription", request(json!({}))),
        ("identity.v1.BillingService/GetBillingOptions", request(json!({}))),
        ("identity.v1.BillingService/ListInvoices", request(json!({}))),
        ("identity.v1.BillingService/ChangePlan", request(json!({ "plan": "PLAN_AGENCY" }))),
    ]
}

fn configure_connections(organization: &Organization, person: usize) -> Vec<Call> {
    let connection = json!({
        "name": format!("Git of {}", ROLES[person]),
        "testRepositoryUrl": organization.git.url(),
        "token": GIT_PASSWORD,
    });
    let connection = organization.world().org_request(connection);
    let key = organization.world().org_request(json!({}));
    let dns = json!({ "name": format!("DNS of {}", ROLES[person]) });
    let dns = organization.world().org_request(merge(by_rfc2136(&organization.named), dns));
    let storage = json!({ "name": format!("Storage of {}", ROLES[person]), "folder": {} });
    let storage = organization.world().org_request(storage);
    vec![
        ("project.v1.GitConnectionService/CreateGitConnection", connection),
        ("project.v1.GitConnectionService/CreateDeployKey", key),
        ("project.v1.DnsConnectionService/CreateDnsConnection", dns),
        ("project.v1.StorageConnectionService/CreateStorageConnection", storage),
    ]
}

fn delete_organization(organization: &Organization, _: usize) -> Vec<Call> {
    let delete = json!({ "confirmName": "acme", "cascade": true });
    let delete = organization.world().org_request(delete);
    vec![("identity.v1.OrganizationService/DeleteOrganization", delete)]
}

/// PL-7, PL-9, PL-16, PL-23, I-13, ID-14, ID-24, ID-34, ID-36, ID-42, ID-52: the table for sessions, by calls
/// that take effect, and for full API keys of the organization, by calls that are refused after the
/// permission check because of an invalid field.
#[tokio::test(flavor = "multi_thread")]
async fn nine_capabilities_hold_for_four_roles_and_their_keys() {
    let repository = Repository::new("one");
    let git = GitServer::start(repository.path(), "git", GIT_PASSWORD).await;
    let named = Named::start().await;
    let connection_exceptions = vec![git.exception(), named.exception()];
    let folder = tempfile::tempdir().unwrap();
    let storage_folder = Some(folder.path().to_owned());
    let options = Options { connection_exceptions, storage_folder, ..Options::default() };
    let suite = Suite::start_with(options).await;
    let organization = Organization::new(&suite, git, named).await;
    let mut keys = vec![];
    for (person, role) in organization.people().into_iter().zip(ROLES) {
        keys.push(full_key(organization.world(), person, role).await);
    }
    for Row { capability, roles, calls, keys: key_allowed } in TABLE {
        organization.runner.heartbeat().await;
        // The Owner last, because the last row deletes the organization.
        for (i, person) in organization.people().into_iter().enumerate().rev() {
            for (method, request) in calls(&organization, i) {
                let what = format!("{}: {capability}: {method}", ROLES[i]);
                let invalid = merge(request.clone(), json!({ "requestId": "x" }));
                let is_read = method.contains("/Get") || method.contains("/List");
                let by_key = if is_read { request.clone() } else { invalid };
                let is_allowed = match keys[i].call(method, by_key).await.map_err(|it| it.code) {
                    Ok(_) | Err(Code::InvalidArgument) => true,
                    Err(Code::PermissionDenied | Code::NotFound) => false,
                    Err(other) => panic!("key of {what}: {other:?}"),
                };
                assert_eq!(is_allowed, roles[i] && key_allowed, "key of {what}");
                let answer = person.call(method, request).await;
                match answer {
                    Ok(_) => assert!(roles[i], "{what}"),
                    Err(error) => {
                        assert!(!roles[i], "{what}: {error}");
                        assert_eq!(error.reason, "MISSING_PERMISSION", "{what}");
                    }
                }
            }
        }
    }
    suite.finish().await;
}

/// A person whose client uses a new full API key. Only Admins create keys, so developers and viewers are
/// Admins during the creation; the permissions of a key are those that its owner has when it is used.
async fn full_key(world: &World, person: &Person, role: &str) -> Person {
    let promoted = matches!(role, "DEVELOPER" | "VIEWER");
    let set_role = async |role: &str| {
        let role = format!("ORG_ROLE_{role}");
        let change = world.org_request(json!({ "userId": person.user_id, "role": role }));
        world.owner.call_ok("identity.v1.MemberService/ChangeMemberRole", change).await;
    };
    if promoted {
        set_role("ADMIN").await;
    }
    let create = world.org_request(json!({ "name": "ci", "full": true }));
    let created = person.call_ok("identity.v1.ApiKeyService/CreateApiKey", create).await;
    if promoted {
        set_role(role).await;
    }
    person.with_token(&text(&created["token"]))
}
