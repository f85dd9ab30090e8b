//! An organization with somebody in each role, for tests of what they may.

use serde_json::{Value, json};
use testkit::{Person, Suite};

use crate::authorization::create_project;

/// Acme: an Owner, an Admin, a Developer and a Viewer; and one project.
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
        let admin = join(suite, &owner, &org, "admin@example.com", "ADMIN").await;
        let developer = join(suite, &owner, &org, "developer@example.com", "DEVELOPER").await;
        let viewer = join(suite, &owner, &org, "viewer@example.com", "VIEWER").await;
        Self { org, project, owner, admin, developer, viewer }
    }

    /// A request about the organization.
    pub(crate) fn here(&self, more: Value) -> Value {
        merge(json!({ "orgId": self.org }), more)
    }

    /// A request about the project.
    pub(crate) fn there(&self, more: Value) -> Value {
        merge(json!({ "orgId": self.org, "projectId": self.project }), more)
    }

    /// Gives a role on the project.
    pub(crate) async fn grant(&self, principal: Value, role: &str) -> Value {
        let set = json!({ "principal": principal, "role": format!("PROJECT_ROLE_{role}") });
        self.owner.tell("identity.v1.ProjectAccessService/SetProjectAccess", self.there(set)).await
    }

    /// A team with these members; answers its id.
    pub(crate) async fn team(&self, name: &str, members: &[&Person]) -> String {
        let create = self.here(json!({ "name": name }));
        let created = self.owner.tell("identity.v1.TeamService/CreateTeam", create).await;
        let team = text(&created["team"]["id"]);
        for member in members {
            let add = self.here(json!({ "teamId": team, "userId": member.user_id }));
            self.owner.tell("identity.v1.TeamService/AddTeamMember", add).await;
        }
        team
    }

    /// Whether somebody may do something on the project, or in the organization.
    pub(crate) async fn may(&self, who: &Person, permission: &str) -> bool {
        let place = if permission.starts_with("org.") { &String::new() } else { &self.project };
        let check = json!({ "orgId": self.org, "projectId": place, "permission": permission });
        who.tell("identity.v1.AccessService/Check", check).await["allowed"] == json!(true)
    }
}

/// A person who is invited and comes.
pub(crate) async fn join(suite: &Suite, by: &Person, org: &str, email: &str, role: &str) -> Person {
    let person = suite.person(email).await;
    admit(by, org, &person, role).await;
    person
}

/// An account becomes a member.
pub(crate) async fn admit(by: &Person, org: &str, person: &Person, role: &str) {
    let invite = json!({ "orgId": org, "email": person.email, "role": format!("ORG_ROLE_{role}") });
    let made = by.tell("invitation.v1.InvitationService/CreateInvitation", invite).await;
    let link = json!({ "orgId": org, "invitationId": made["invitation"]["id"] });
    let link = by.tell("invitation.v1.InvitationService/GetInvitationLink", link).await;
    let token = text(&link["link"]).rsplit('/').next().unwrap_or_default().to_owned();
    let accept = json!({ "token": token });
    person.tell("invitation.v1.InvitationService/AcceptInvitation", accept).await;
}

pub(crate) fn merge(mut into: Value, more: Value) -> Value {
    if let (Some(into), Value::Object(more)) = (into.as_object_mut(), more) {
        into.extend(more);
    }
    into
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
