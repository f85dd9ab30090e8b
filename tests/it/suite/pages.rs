//! Pages of every list of the contract, while its rows are deleted, renamed and added between two pages.

mod observed;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use testkit::{GitServer, Named, Options, PASSWORD, Person, Repository, Suite};

use crate::{
    project::dns_connection_service::by_rfc2136,
    support::{
        exports::{CREATE_EXPORT_SINK, export_sink},
        world::{World, add_member, merge, text},
    },
};

/// Rows of a list before its first page.
const ROWS: usize = 7;

/// The rows of the lists: people, and objects of one organization.
struct Rows {
    world: World,
    team: String,
    environment: String,
    people: Vec<Person>,
    /// Server of Git connections, and its account.
    git: GitServer,
    /// Server of DNS connections.
    named: Named,
}

/// Password of the account `git` of the Git server.
const GIT_PASSWORD: &str = "git-passw0rd";

/// A list: its method without the package `tenantry`, and the field of its rows.
#[derive(Clone, Copy)]
struct List {
    method: &'static str,
    field: &'static str,
    order: &'static str,
}

const fn list(method: &'static str, field: &'static str) -> List {
    List { method, field, order: "" }
}

const LISTS: [List; 23] = [
    list("audit.v1.AuditExportService/ListExportSinks", "exportSinks"),
    list("identity.v1.ApiKeyService/ListApiKeys", "apiKeys"),
    list("identity.v1.ApiKeyService/ListProjectApiKeys", "apiKeys"),
    list("identity.v1.MemberService/ListMembers", "members"),
    list("identity.v1.OrganizationService/ListOrganizations", "organizations"),
    list("identity.v1.ProjectAccessService/ListProjectAccess", "grants"),
    list("identity.v1.SessionService/ListSessions", "sessions"),
    list("identity.v1.TeamService/ListTeamMembers", "members"),
    list("identity.v1.TeamService/ListTeams", "teams"),
    list("invitation.v1.InvitationService/ListInvitations", "invitations"),
    list("invitation.v1.InvitationService/ListMyInvitations", "invitations"),
    list("notification.v1.MailRuleService/ListMailRules", "mailRules"),
    list("notification.v1.WebhookService/ListWebhooks", "webhooks"),
    list("project.v1.CollaboratorService/ListCollaborators", "collaborators"),
    list("project.v1.DnsConnectionService/ListDnsConnections", "dnsConnections"),
    list("project.v1.DomainService/ListDomains", "domains"),
    list("project.v1.EnvironmentService/ListEnvironments", "environments"),
    list("project.v1.GitConnectionService/ListGitConnections", "gitConnections"),
    list("project.v1.StorageConnectionService/ListStorageConnections", "storageConnections"),
    List {
        method: "project.v1.ProjectService/ListProjects",
        field: "projects",
        order: "PROJECT_ORDER_NAME",
    },
    List {
        method: "project.v1.ProjectService/ListProjects",
        field: "projects",
        order: "PROJECT_ORDER_UPDATE_TIME",
    },
    list("project.v1.ProjectService/ListProjects", "projects"),
    list("project.v1.ServerService/ListServers", "servers"),
];

/// Identity of a row: its id, or that of its member or principal.
fn row_id(row: &Value) -> String {
    let nested = [&row["principal"]["userId"], &row["userId"], &row["holder"]["userId"]];
    let own = row["id"].as_str().filter(|_| row["principal"].is_null() && row["email"].is_null());
    let found = own.or_else(|| nested.iter().find_map(|it| it.as_str()));
    found.or_else(|| row["id"].as_str()).unwrap_or_else(|| panic!("{row} has no id")).to_owned()
}

impl Rows {
    fn request(&self, list: &List) -> Value {
        let ids = json!({ "teamId": self.team, "environmentId": self.environment });
        let mut request = self.world.project_request(ids);
        if !list.order.is_empty() {
            request["orderBy"] = json!(list.order);
        }
        let fields: &[&str] = match list.method.rsplit('/').next().unwrap() {
            "ListSessions" | "ListOrganizations" | "ListMyInvitations" => &[],
            "ListTeamMembers" => &["orgId", "teamId"],
            "ListProjectAccess" | "ListCollaborators" | "ListEnvironments"
            | "ListProjectApiKeys" => &["orgId", "projectId"],
            "ListDomains" => &["orgId", "projectId", "environmentId"],
            "ListProjects" => &["orgId", "orderBy"],
            _ => &["orgId"],
        };
        let mut kept = json!({});
        for field in fields {
            if !request[field].is_null() {
                kept[field] = request[field].clone();
            }
        }
        kept
    }

    /// Adds the row `number` to a list.
    async fn add(&self, list: &List, number: usize) {
        let world = &self.world;
        let owner = &world.owner;
        let person = || self.people[number % self.people.len()].clone();
        let name = format!("row {number}");
        let org = |more| world.org_request(more);
        let project = |more| world.project_request(more);
        let (method, request) = match list.method.rsplit('/').next().unwrap() {
            "ListApiKeys" => {
                ("identity.v1.ApiKeyService/CreateApiKey", org(json!({ "name": name })))
            }
            "ListProjectApiKeys" => {
                ("identity.v1.ApiKeyService/CreateProjectApiKey", project(json!({ "name": name })))
            }
            "ListMembers" => return add_member(owner, &world.org, &person(), "DEVELOPER").await,
            "ListOrganizations" => {
                owner.create_organization(&format!("row-{number}")).await.unwrap();
                return;
            }
            "ListProjectAccess" | "ListCollaborators" => {
                let user = json!({ "userId": person().user_id });
                world.grant(user, "VIEWER").await;
                return;
            }
            "ListSessions" => {
                owner.sign_in_again().await;
                return;
            }
            "ListTeamMembers" => (
                "identity.v1.TeamService/AddTeamMember",
                org(json!({ "teamId": self.team, "userId": person().user_id })),
            ),
            "ListTeams" => ("identity.v1.TeamService/CreateTeam", org(json!({ "name": name }))),
            "ListInvitations" => (
                "invitation.v1.InvitationService/CreateInvitation",
                org(
                    json!({ "email": format!("row{number}@example.org"), "role": "ORG_ROLE_VIEWER" }),
                ),
            ),
            "ListMyInvitations" => return self.invite_owner(number).await,
            "ListMailRules" => (
                "notification.v1.MailRuleService/CreateMailRule",
                org(json!({ "recipients": [owner.email], "eventTypes": ["deployment.failed"] })),
            ),
            "ListWebhooks" => (
                "notification.v1.WebhookService/CreateWebhook",
                org(json!({ "url": format!("https://9.9.9.9/row{number}"),
                            "eventTypes": ["deployment.failed"] })),
            ),
            "ListEnvironments" => (
                "project.v1.EnvironmentService/CreateEnvironment",
                project(json!({ "name": format!("row-{number}") })),
            ),
            "ListDomains" => (
                "project.v1.DomainService/CreateDomain",
                project(json!({ "environmentId": self.environment,
                                "hostname": format!("row{number}.example.com") })),
            ),
            "ListDnsConnections" => (
                "project.v1.DnsConnectionService/CreateDnsConnection",
                org(merge(by_rfc2136(&self.named), json!({ "name": name }))),
            ),
            "ListGitConnections" => (
                "project.v1.GitConnectionService/CreateGitConnection",
                org(json!({ "name": name, "testRepositoryUrl": self.git.url(),
                            "token": GIT_PASSWORD })),
            ),
            "ListStorageConnections" => (
                "project.v1.StorageConnectionService/CreateStorageConnection",
                org(json!({ "name": name, "folder": {} })),
            ),
            "ListExportSinks" => (CREATE_EXPORT_SINK, export_sink(owner, &world.org, &name).await),
            "ListProjects" => (
                "project.v1.ProjectService/CreateProject",
                org(json!({ "name": name, "repositoryUrl": "https://git.example.com/a.git" })),
            ),
            "ListServers" => (
                "project.v1.ServerService/ConnectServer",
                org(json!({ "name": name, "address": format!("row{number}.example.com") })),
            ),
            other => panic!("no row can be added to {other}"),
        };
        owner.call_ok(method, request).await;
    }

    /// Has another person invite the Owner to a new organization.
    async fn invite_owner(&self, number: usize) {
        let inviter = &self.people[0];
        let org = inviter.create_organization(&format!("mine-{number}")).await.unwrap();
        let email = &self.world.owner.email;
        let invite = json!({ "orgId": org, "email": email, "role": "ORG_ROLE_VIEWER" });
        inviter.call_ok("invitation.v1.InvitationService/CreateInvitation", invite).await;
    }

    /// Deletes a row; returns false if the list has no method for that.
    async fn delete(&self, list: &List, row: &Value) -> bool {
        let world = &self.world;
        let id = row_id(row);
        let org = |more| world.org_request(more);
        let (method, request) = match list.method.rsplit('/').next().unwrap() {
            "ListApiKeys" => {
                ("identity.v1.ApiKeyService/RevokeApiKey", org(json!({ "apiKeyId": id })))
            }
            "ListMembers" => {
                ("identity.v1.MemberService/RemoveMember", org(json!({ "userId": id })))
            }
            "ListProjectAccess" => (
                "identity.v1.ProjectAccessService/RemoveProjectAccess",
                world.project_request(json!({ "principal": { "userId": id } })),
            ),
            "ListSessions" => {
                ("identity.v1.SessionService/RevokeSession", json!({ "sessionId": id }))
            }
            "ListTeamMembers" => (
                "identity.v1.TeamService/RemoveTeamMember",
                org(json!({ "teamId": self.team, "userId": id })),
            ),
            "ListTeams" => ("identity.v1.TeamService/DeleteTeam", org(json!({ "teamId": id }))),
            "ListMailRules" => {
                ("notification.v1.MailRuleService/DeleteMailRule", org(json!({ "mailRuleId": id })))
            }
            "ListMyInvitations" => {
                ("invitation.v1.InvitationService/DeclineInvitation", json!({ "invitationId": id }))
            }
            "ListWebhooks" => {
                ("notification.v1.WebhookService/DeleteWebhook", org(json!({ "webhookId": id })))
            }
            "ListDomains" => (
                "project.v1.DomainService/DeleteDomain",
                world.project_request(json!({ "domainId": id })),
            ),
            "ListDnsConnections" => (
                "project.v1.DnsConnectionService/DeleteDnsConnection",
                org(json!({ "dnsConnectionId": id })),
            ),
            "ListGitConnections" => (
                "project.v1.GitConnectionService/DeleteGitConnection",
                org(json!({ "gitConnectionId": id })),
            ),
            "ListStorageConnections" => (
                "project.v1.StorageConnectionService/DeleteStorageConnection",
                org(json!({ "storageConnectionId": id })),
            ),
            "ListExportSinks" => {
                ("audit.v1.AuditExportService/DeleteExportSink", org(json!({ "exportSinkId": id })))
            }
            "ListProjects" => (
                "project.v1.ProjectService/DeleteProject",
                org(json!({ "projectId": id, "confirmName": row["name"], "confirm": true })),
            ),
            "ListServers" => {
                ("project.v1.ServerService/RemoveServer", org(json!({ "serverId": id })))
            }
            _ => return false,
        };
        // The current session, the Owner and the project of the other lists are kept.
        world.owner.call(method, request).await.is_ok()
    }

    /// Renames a row, so that it is before or after all others of its list.
    async fn rename(&self, list: &List, row: &Value, name: &str) {
        let id = row_id(row);
        let (method, field) = match list.method.rsplit('/').next().unwrap() {
            "ListTeams" => ("identity.v1.TeamService/UpdateTeam", "teamId"),
            "ListProjects" => ("project.v1.ProjectService/UpdateProject", "projectId"),
            _ => return,
        };
        let change = json!({ field: id, "name": name, "updateMask": "name" });
        self.world.owner.call_ok(method, self.world.org_request(change)).await;
    }
}

/// Reads all pages of a list, with changes between them; returns how often each row was seen.
async fn read_with_changes(
    rows: &Rows,
    list: &List,
    changed: &mut BTreeSet<String>,
) -> BTreeMap<String, usize> {
    let owner = &rows.world.owner;
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut page_token = String::new();
    for page in 0.. {
        assert!(page < 30, "{} does not end", list.method);
        let paging = json!({ "pageSize": 2, "pageToken": page_token });
        let answer = owner.call_ok(list.method, merge(rows.request(list), paging)).await;
        let shown = answer[list.field].as_array().cloned().unwrap_or_default();
        for row in &shown {
            *seen.entry(row_id(row)).or_default() += 1;
        }
        page_token = text(&answer["nextPageToken"]);
        if page_token.is_empty() {
            break;
        }
        // The first pages only, so that rows remain. Deletes the last row that was shown, and renames the
        // first one, which moves it before the place of the token.
        if page < 2
            && let [first, last] = shown.as_slice()
        {
            if rows.delete(list, last).await {
                changed.insert(row_id(last));
            }
            rows.rename(list, first, &format!("aaa {page}")).await;
            changed.insert(row_id(first));
            if !["ListMembers", "ListProjectAccess", "ListCollaborators", "ListTeamMembers"]
                .iter()
                .any(|it| list.method.ends_with(it))
            {
                rows.add(list, 100 + page).await;
            }
        }
    }
    seen
}

/// AIP-158: a page token is a place in the order of the list. Each row that existed throughout, and was not
/// changed, is seen once.
#[tokio::test(flavor = "multi_thread")]
async fn every_list_is_read_to_its_end_while_its_rows_change() {
    let repository = Repository::new("one");
    let git = GitServer::start(repository.path(), "git", GIT_PASSWORD).await;
    let named = Named::start().await;
    let connection_exceptions = vec![git.exception(), named.exception()];
    let folder = tempfile::tempdir().unwrap();
    let storage_folder = Some(folder.path().to_owned());
    let options = Options { connection_exceptions, storage_folder, ..Options::default() };
    let suite = Suite::start_with(options).await;
    let world = World::new(&suite).await;
    let team = world.create_team("the team", &[]).await;
    let mut people = vec![];
    for number in 0..ROWS {
        people.push(suite.person(&format!("row{number}@example.com")).await);
    }
    let create = world.project_request(json!({ "name": "domains" }));
    let method = "project.v1.EnvironmentService/CreateEnvironment";
    let created = world.owner.call_ok(method, create).await;
    let environment = text(&created["environment"]["id"]);
    let rows = Rows { world, team, environment, people, git, named };
    // Members first: grants and teams need them; the removed ones join again.
    let mut lists = LISTS.to_vec();
    lists.sort_by_key(|it| !it.method.ends_with("ListMembers"));
    for list in &lists {
        if list.order.is_empty() || list.order == "PROJECT_ORDER_NAME" {
            for number in 0..ROWS {
                rows.add(list, number).await;
            }
        }
        let whole = merge(rows.request(list), json!({ "pageSize": 100 }));
        let before = rows.world.owner.call_ok(list.method, whole).await;
        let before = before[list.field].as_array().unwrap().iter().map(row_id);
        let before: BTreeSet<String> = before.collect();
        assert!(before.len() > 4, "{} has {} rows", list.method, before.len());
        let mut changed = BTreeSet::new();
        let seen = read_with_changes(&rows, list, &mut changed).await;
        for id in before.difference(&changed) {
            assert_eq!(seen.get(id), Some(&1), "{} {}: {id}", list.method, list.order);
        }
        if list.method.ends_with("ListMembers") {
            for person in &rows.people {
                let get = rows.world.org_request(json!({ "userId": person.user_id }));
                let method = "identity.v1.MemberService/GetMember";
                if rows.world.owner.call(method, get).await.is_err() {
                    add_member(&rows.world.owner, &rows.world.org, person, "DEVELOPER").await;
                }
            }
        }
    }
    let login = json!({ "email": rows.world.owner.email, "password": PASSWORD });
    suite.client.call_json("identity.v1.SessionService/Login", login).await.unwrap();
    suite.finish().await;
}
