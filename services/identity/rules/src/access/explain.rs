//! Explanations of decisions: the facts behind a permission or its denial, the role that it needs, and the
//! changes that would grant it.

use std::collections::HashMap;

use api::identity as pb;
use chassis::{ProjectId, TeamId, UserId, timestamp};
use uuid::Uuid;

use super::{
    fact::{FactKey, FactOrigin},
    remedy::remedies,
};
use crate::{
    policy::{OrgRole, Permission, ProjectRole, WHEN_BLOCKED},
    snapshot::{AccessQuery, RoleSource, Snapshot, Status, Subject, Verdict},
    types::Principal,
};

/// Names and events that explanations mention; the snapshot has neither.
#[derive(Default)]
pub struct Labels {
    /// Names of teams and email addresses of members, by their ids.
    pub names: HashMap<Uuid, String>,
    /// The events that established the facts.
    pub origins: HashMap<FactKey, FactOrigin>,
}

/// The explanation of a decision.
pub struct Explanation {
    pub allowed: bool,
    pub text: String,
    pub path: Vec<pb::Step>,
    pub remedies: Vec<pb::Remedy>,
}

impl Labels {
    /// Returns the name of a team or the email address of a member; the id if it is unknown.
    pub fn name(&self, id: Uuid) -> String {
        self.names.get(&id).cloned().unwrap_or_else(|| id.to_string())
    }

    /// Returns a step of an explanation, with the event that established its fact.
    fn step(&self, kind: pb::StepKind, text: String, role: &str, fact: &FactKey) -> pb::Step {
        let origin = self.origins.get(fact);
        pb::Step {
            kind: kind.into(),
            text,
            principal_id: fact.subject_id.to_string(),
            role: role.to_owned(),
            event_id: origin.map(|it| it.event_id.to_string()).unwrap_or_default(),
            time: origin.map(|it| timestamp(it.changed_at)),
        }
    }

    /// Returns a step whose fact is a person's membership in the organization.
    fn membership_step(
        &self,
        kind: pb::StepKind,
        text: String,
        user_id: UserId,
        role: OrgRole,
    ) -> pb::Step {
        self.step(kind, text, role.as_str(), &FactKey::member(user_id))
    }
}

/// Returns every fact about a person that concerns a query, those with the highest role first. If the
/// person has the permission, the first fact allows it; otherwise the facts show which roles are not
/// enough.
pub fn relevant_steps(
    snapshot: &Snapshot,
    labels: &Labels,
    user_id: UserId,
    query: &AccessQuery,
) -> Vec<pb::Step> {
    let Some(org_role) = snapshot.org_role(user_id) else { return vec![] };
    let who = labels.name(user_id.0);
    let (Permission::Project(permission), Some(project_id)) = (query.permission, query.project_id)
    else {
        let text = format!("{who} is {} of the organization", org_role.as_str());
        return vec![labels.membership_step(pb::StepKind::OrgRole, text, user_id, org_role)];
    };
    let sources = snapshot.role_sources(user_id, project_id);
    let mut steps: Vec<_> = sources
        .into_iter()
        .map(|(source, role)| match source {
            RoleSource::Ownership => ownership_step(labels, user_id),
            RoleSource::Grant(Principal::User(_)) => {
                direct_grant_step(labels, user_id, project_id, role)
            }
            RoleSource::Grant(Principal::Team(team_id)) => {
                team_grant_step(labels, user_id, team_id, project_id, role)
            }
        })
        .collect();
    // An Admin of the organization has some permissions (`org_admin`) without a role on the project.
    let is_admin_of_project_org =
        org_role == OrgRole::Admin && snapshot.projects.contains_key(&project_id);
    if permission.org_admin && is_admin_of_project_org {
        let text = format!(
            "{who} is ADMIN of the organization, which includes seeing every project and managing its access"
        );
        steps.push(labels.membership_step(pb::StepKind::Administration, text, user_id, org_role));
    }
    steps.sort_by_key(|it| std::cmp::Reverse(role_rank(&it.role)));
    if org_role == OrgRole::Viewer && highest_grant(snapshot, user_id, project_id) > VIEWER {
        // The first step explains the decision: the limit, if it is the reason of the denial.
        let index = if Some(permission.min_role) > VIEWER { 0 } else { steps.len() };
        steps.insert(index, viewer_limit_step(labels, user_id));
    }
    steps
}

/// Role on a project to which a Viewer of the organization is limited (ID-52).
const VIEWER: Option<ProjectRole> = Some(ProjectRole::Viewer);

/// Returns the highest role that grants give a member on a project, regardless of the role in the
/// organization.
fn highest_grant(
    snapshot: &Snapshot,
    user_id: UserId,
    project_id: ProjectId,
) -> Option<ProjectRole> {
    snapshot.role_sources(user_id, project_id).into_iter().map(|(_, role)| role).max()
}

fn viewer_limit_step(labels: &Labels, user_id: UserId) -> pb::Step {
    let who = labels.name(user_id.0);
    let text = format!(
        "{who} is VIEWER of the organization, which limits their role on every project to VIEWER"
    );
    labels.membership_step(pb::StepKind::ViewerLimit, text, user_id, OrgRole::Viewer)
}

fn ownership_step(labels: &Labels, user_id: UserId) -> pb::Step {
    let who = labels.name(user_id.0);
    let text = format!("{who} is OWNER of the organization, which includes ADMIN on every project");
    labels.membership_step(pb::StepKind::Ownership, text, user_id, OrgRole::Owner)
}

fn direct_grant_step(
    labels: &Labels,
    user_id: UserId,
    project_id: ProjectId,
    role: ProjectRole,
) -> pb::Step {
    let who = labels.name(user_id.0);
    let role = role.as_str();
    let text = format!("{who} has the role {role} on the project by a direct grant");
    let fact = FactKey::user_grant(user_id, project_id);
    labels.step(pb::StepKind::DirectGrant, text, role, &fact)
}

fn team_grant_step(
    labels: &Labels,
    user_id: UserId,
    team_id: TeamId,
    project_id: ProjectId,
    role: ProjectRole,
) -> pb::Step {
    let who = labels.name(user_id.0);
    let team = labels.name(team_id.0);
    let role = role.as_str();
    let text = format!("{who} is in the team {team}, which has the role {role} on the project");
    let fact = FactKey::team_grant(team_id, project_id);
    labels.step(pb::StepKind::TeamGrant, text, role, &fact)
}

/// Returns the rank of a role by its name, 0 for the lowest. Organizations and projects have the same order.
fn role_rank(role: &str) -> usize {
    ["VIEWER", "DEVELOPER", "ADMIN", "OWNER"].iter().position(|it| *it == role).unwrap_or_default()
}

/// Explains the decision about a person.
pub fn explain(
    snapshot: &Snapshot,
    labels: &Labels,
    user_id: UserId,
    query: &AccessQuery,
) -> Explanation {
    let verdict = snapshot.verdict(Subject { user_id, key: None }, query);
    let allowed = verdict == Verdict::Allowed;
    let code = query.permission.code();
    let who = labels.name(user_id.0);
    let required = required_role(query.permission);
    let path = relevant_steps(snapshot, labels, user_id, query);
    let text = match path.first() {
        Some(step) if allowed => format!("{who} has {code}: {}.", step.text),
        Some(step) => format!("{who} lacks {code}: {}, but {required} is required.", step.text),
        None if snapshot.org_role(user_id).is_none() => {
            format!("{who} lacks {code}: {who} is not a member of the organization.")
        }
        None => {
            format!(
                "{who} lacks {code}: {who} has no role on the project, but {required} is required."
            )
        }
    };
    let is_blocked = snapshot.status == Status::Blocked;
    let note = if is_blocked { " The subscription is blocked: changes are refused." } else { "" };
    let is_right = WHEN_BLOCKED.contains(&code);
    let remedies = if allowed && (is_right || !is_blocked) {
        vec![]
    } else {
        remedies(snapshot, labels, user_id, query, !allowed)
    };
    Explanation { allowed, text: text + note, path, remedies }
}

fn required_role(permission: Permission) -> String {
    match permission {
        Permission::Org(it) => format!("the role {} in the organization", it.min_role.as_str()),
        Permission::Project(it) => format!("the role {} on the project", it.min_role.as_str()),
    }
}

/// Returns a member who has a permission, with the facts that allow it.
pub fn holder(
    snapshot: &Snapshot,
    labels: &Labels,
    user_id: UserId,
    query: &AccessQuery,
) -> pb::Holder {
    let org_role = snapshot.org_role(user_id).map_or(pb::OrgRole::Unspecified, Into::into);
    let project_role = query.project_id.and_then(|it| snapshot.project_role(user_id, it));
    let project_role = project_role.map_or(pb::ProjectRole::Unspecified, Into::into);
    pb::Holder {
        user_id: user_id.into(),
        org_role: org_role.into(),
        project_role: project_role.into(),
        path: relevant_steps(snapshot, labels, user_id, query),
    }
}

/// Returns the ids whose names and events an explanation about these members needs: the members, and the
/// teams with a grant on the project.
pub fn mentioned_ids(snapshot: &Snapshot, users: &[UserId], query: &AccessQuery) -> Vec<Uuid> {
    let grants = query.project_id.and_then(|it| snapshot.projects.get(&it));
    let teams = grants.into_iter().flatten().filter_map(|(principal, _)| match principal {
        Principal::Team(id) => Some(id.0),
        Principal::User(_) => None,
    });
    users.iter().map(|it| it.0).chain(teams).collect()
}
