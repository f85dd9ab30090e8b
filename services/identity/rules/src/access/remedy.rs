//! Remedies: changes that would give a person a permission that they lack, each with the request that makes
//! the change.

use api::identity as pb;
use chassis::{ProjectId, UserId};
use serde_json::{Value, json};

use super::explain::Labels;
use crate::{
    policy::{OrgRole, Permission, ProjectRole},
    snapshot::{AccessQuery, Snapshot, Status},
    types::Principal,
};

const CHANGE_MEMBER_ROLE: &str = "identity.v1.MemberService/ChangeMemberRole";
const CREATE_INVITATION: &str = "invitation.v1.InvitationService/CreateInvitation";

/// Remedies of one decision, in the order of their steps. Remedies of the same step are alternatives.
struct Remedies<'a> {
    snapshot: &'a Snapshot,
    labels: &'a Labels,
    user_id: UserId,
    /// Step of the remedies that are added next.
    step: i32,
    list: Vec<pb::Remedy>,
}

/// Returns the changes that would give a person the permission, the smallest first. `lacks` is false if only
/// the subscription refuses their changes.
pub(super) fn remedies(
    snapshot: &Snapshot,
    labels: &Labels,
    user_id: UserId,
    query: &AccessQuery,
    lacks: bool,
) -> Vec<pb::Remedy> {
    let mut remedies = Remedies { snapshot, labels, user_id, step: 1, list: vec![] };
    if snapshot.status == Status::Blocked {
        remedies.settle_subscription();
    }
    if lacks {
        match (query.permission, query.project_id) {
            (Permission::Org(permission), _) => remedies.org_role(permission.min_role),
            (Permission::Project(permission), Some(project_id)) => {
                remedies.project_role(project_id, permission.min_role);
            }
            (Permission::Project(_), None) => {}
        }
    }
    remedies.list
}

impl Remedies<'_> {
    /// The other remedies are changes, which a blocked subscription refuses.
    fn settle_subscription(&mut self) {
        let text = "the Owner settles the subscription with the operator, whose billing system unblocks it";
        let request = json!({ "subscription": "SUBSCRIPTION_ACTIVE" });
        let method = "identity.v1.OrganizationService/SetSubscription";
        self.add(text.to_owned(), method, "", request);
        self.step += 1;
    }

    /// Changes that give the person a role in the organization.
    fn org_role(&mut self, role: OrgRole) {
        let who = self.labels.name(self.user_id.0);
        let user = self.user_id.to_string();
        let is_member = self.snapshot.org_role(self.user_id).is_some();
        // No invitation offers the role OWNER.
        let invited_role = role.min(OrgRole::Admin);
        if !is_member {
            self.invite(invited_role, None);
            self.step += 1;
        }
        let name = role.as_str();
        if role == OrgRole::Owner {
            let text = "only the Owner has this permission; ask them to do it, or to transfer the ownership";
            let method = "identity.v1.OrganizationService/TransferOwnership";
            self.add(text.to_owned(), method, name, json!({ "userId": user }));
        } else if is_member {
            let text = format!("give {who} the role {name} in the organization");
            let request = json!({ "userId": user, "role": format!("ORG_ROLE_{name}") });
            self.add(text, CHANGE_MEMBER_ROLE, name, request);
        }
    }

    /// Changes that give the person a role on a project.
    fn project_role(&mut self, project_id: ProjectId, min_role: ProjectRole) {
        // A Viewer of the organization has at most VIEWER on every project (ID-52).
        let org_role =
            if min_role > ProjectRole::Viewer { OrgRole::Developer } else { OrgRole::Viewer };
        match self.snapshot.org_role(self.user_id) {
            None => return self.invite(org_role, Some((project_id, min_role))),
            Some(role) if role < org_role => {
                self.raise_viewer();
                self.step += 1;
            }
            Some(_) => {}
        }
        let sources = self.snapshot.role_sources(self.user_id, project_id);
        if sources.into_iter().map(|(_, role)| role).max() < Some(min_role) {
            self.grant(project_id, min_role);
        }
    }

    fn raise_viewer(&mut self) {
        let who = self.labels.name(self.user_id.0);
        let role = OrgRole::Developer.as_str();
        let text = format!(
            "give {who} the role {role} in the organization, because a VIEWER has at most VIEWER on a project"
        );
        let user = self.user_id.to_string();
        let request = json!({ "userId": user, "role": format!("ORG_ROLE_{role}") });
        self.add(text, CHANGE_MEMBER_ROLE, role, request);
    }

    /// An invitation with a role in the organization, and one on a project. The request lacks the address,
    /// which the organization may not know.
    fn invite(&mut self, role: OrgRole, access: Option<(ProjectId, ProjectRole)>) {
        let who = self.labels.name(self.user_id.0);
        let role = role.as_str();
        let mut text = format!("invite {who} to the organization as {role}");
        let mut request = json!({ "role": format!("ORG_ROLE_{role}") });
        if let Some((project_id, role)) = access {
            let role = role.as_str();
            text += &format!(" with the role {role} on the project");
            let role = format!("PROJECT_ROLE_{role}");
            request["projectAccess"] =
                json!([{ "projectId": project_id.to_string(), "role": role }]);
        }
        self.add(text, CREATE_INVITATION, role, request);
    }

    /// A direct grant, and joining a team that has a sufficient role on the project.
    fn grant(&mut self, project_id: ProjectId, min_role: ProjectRole) {
        let who = self.labels.name(self.user_id.0);
        let user = self.user_id.to_string();
        let role = min_role.as_str();
        let request = json!({
            "projectId": project_id.to_string(),
            "principal": { "userId": user },
            "role": format!("PROJECT_ROLE_{role}"),
        });
        let text = format!("give {who} the role {role} on the project");
        self.add(text, "identity.v1.ProjectAccessService/SetProjectAccess", role, request);
        let grants = self.snapshot.projects.get(&project_id).into_iter().flatten();
        let sufficient: Vec<_> = grants
            .filter(|(_, role)| **role >= min_role)
            .filter_map(|(principal, role)| match principal {
                Principal::Team(team_id) => Some((*team_id, role.as_str())),
                Principal::User(_) => None,
            })
            .collect();
        for (team_id, role) in sufficient {
            let team = self.labels.name(team_id.0);
            let text =
                format!("add {who} to the team {team}, which has the role {role} on the project");
            let request = json!({ "teamId": team_id.to_string(), "userId": user });
            self.add(text, "identity.v1.TeamService/AddTeamMember", role, request);
        }
    }

    /// Adds a remedy of the present step. `method` is a name without the common package; the id of the
    /// organization is added to the request.
    fn add(&mut self, text: String, method: &str, role: &str, mut request: Value) {
        request["orgId"] = json!(self.snapshot.org_id.to_string());
        self.list.push(pb::Remedy {
            text,
            method: format!("tenantry.{method}"),
            role: role.to_owned(),
            request: request.to_string(),
            step: self.step,
        });
    }
}
