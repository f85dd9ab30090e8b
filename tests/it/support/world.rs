//! An organization with one person in each role.

use api::project as prj;
use serde_json::{Value, json};
use tenantry::client::CallError;
use testkit::{Person, Suite};

/// The organization Acme: an Owner, an Admin, a Developer and a Viewer; and one project.
pub(crate) struct World {
    pub(crate) org: String,
    pub(crate) project: String,
    pub(crate) owner: Person,
    pub(crate) admin: Person,
    pub(crate) developer: Person,
    pub(crate) viewer: Person,
}

impl World {
    pub(crate) async fn new(suite: &Suite) -> Self {
        let owner = suite.person("owner@example.com").await;
        let org = owner.create_organization("acme").await.unwrap();
        let project = create_project(&owner, &org).await;
        let admin = new_member(suite, &owner, &org, "admin@example.com", "ADMIN").await;
        let developer = new_member(suite, &owner, &org, "developer@example.com", "DEVELOPER").await;
        let viewer = new_member(suite, &owner, &org, "viewer@example.com", "VIEWER").await;
        Self { org, project, owner, admin, developer, viewer }
    }

    /// A JSON request with the id of the organization and the fields of `more`.
    pub(crate) fn org_request(&self, more: Value) -> Value {
        merge(json!({ "orgId": self.org }), more)
    }

    /// A JSON request with the ids of the organization and the project, and the fields of `more`.
    pub(crate) fn project_request(&self, more: Value) -> Value {
        merge(json!({ "orgId": self.org, "projectId": self.project }), more)
    }

    /// Sets a role (`VIEWER`) of a principal on the project.
    pub(crate) async fn grant(&self, principal: Value, role: &str) -> Value {
        let set = json!({ "principal": principal, "role": format!("PROJECT_ROLE_{role}") });
        self.owner
            .call_ok("identity.v1.ProjectAccessService/SetProjectAccess", self.project_request(set))
            .await
    }

    /// Creates a team with these members; returns its id.
    pub(crate) async fn create_team(&self, name: &str, members: &[&Person]) -> String {
        let create = self.org_request(json!({ "name": name }));
        let created = self.owner.call_ok("identity.v1.TeamService/CreateTeam", create).await;
        let team = text(&created["team"]["id"]);
        for member in members {
            let add = self.org_request(json!({ "teamId": team, "userId": member.user_id }));
            self.owner.call_ok("identity.v1.TeamService/AddTeamMember", add).await;
        }
        team
    }

    /// Returns true if a person has a permission on the project, or in the organization if its code begins
    /// with `org.`.
    pub(crate) async fn is_allowed(&self, person: &Person, permission: &str) -> bool {
        let project = if permission.starts_with("org.") { "" } else { &self.project };
        let check = json!({ "orgId": self.org, "projectId": project, "permission": permission });
        person.call_ok("identity.v1.AccessService/Check", check).await["allowed"] == json!(true)
    }
}

/// Registers a person and makes them a member.
pub(crate) async fn new_member(
    suite: &Suite,
    by: &Person,
    org: &str,
    email: &str,
    role: &str,
) -> Person {
    let person = suite.person(email).await;
    add_member(by, org, &person, role).await;
    person
}

/// Makes an account a member: creates an invitation, and accepts it with the token of its link.
pub(crate) async fn add_member(by: &Person, org: &str, person: &Person, role: &str) {
    let invite = json!({ "orgId": org, "email": person.email, "role": format!("ORG_ROLE_{role}") });
    let created = by.call_ok("invitation.v1.InvitationService/CreateInvitation", invite).await;
    let link = json!({ "orgId": org, "invitationId": created["invitation"]["id"] });
    let link = by.call_ok("invitation.v1.InvitationService/GetInvitationLink", link).await;
    let token = text(&link["link"]).rsplit('/').next().unwrap_or_default().to_owned();
    let accept = json!({ "token": token });
    person.call_ok("invitation.v1.InvitationService/AcceptInvitation", accept).await;
}

/// The fields of two JSON objects. A field that both have is taken from `more`.
pub(crate) fn merge(mut into: Value, more: Value) -> Value {
    if let (Some(into), Value::Object(more)) = (into.as_object_mut(), more) {
        into.extend(more);
    }
    into
}

/// A JSON string; empty for null.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Creates a project whose repository does not exist; returns its id.
pub(crate) async fn create_project(owner: &Person, org_id: &str) -> String {
    let create = prj::CreateProjectRequest {
        org_id: org_id.to_owned(),
        name: "Shop".to_owned(),
        repository_url: "https://git.example.com/acme/shop.git".to_owned(),
        ..Default::default()
    };
    let created: Result<prj::CreateProjectResponse, CallError> =
        owner.client.call("tenantry.project.v1.ProjectService/CreateProject", create).await;
    created.unwrap().project.unwrap().id
}
