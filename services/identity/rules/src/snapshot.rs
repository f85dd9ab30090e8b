//! Members, teams, projects and grants of one organization at one version, and the decisions that follow from
//! them. A snapshot that is in use never changes, so a decision is made from one version.

mod change;
mod holders;
mod wire;

use std::collections::{HashMap, HashSet};

use api::error::Reason;
use chassis::{ApiKeyScope, OrgId, ProjectId, TeamId, UserId};

use crate::{
    policy::{KeyPolicy, OrgRole, Permission, ProjectRole},
    types::{ConsistencyToken, Principal},
};

pub use change::Change;

/// The state of an organization, as far as decisions depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Reads and writes are allowed.
    Active,
    /// The subscription is blocked: reads are allowed, writes are denied (PL-4).
    Blocked,
    /// Deleted and not yet purged: hidden from everybody but its Owner, who may restore it (ID-35).
    Deleted,
}

/// The access data of one organization at one version.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub org_id: OrgId,
    pub version: i64,
    pub status: Status,
    pub members: HashMap<UserId, OrgRole>,
    pub teams: HashMap<TeamId, HashSet<UserId>>,
    pub projects: HashMap<ProjectId, HashMap<Principal, ProjectRole>>,
}

/// The caller that a decision is about: a person, or an API key of theirs.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub user_id: UserId,
    pub key: Option<&'a ApiKeyScope>,
}

/// A permission, and the object for which it is needed. The organization is the one of the snapshot; the
/// chassis' `AccessCheck` names it and has the permission as text.
#[derive(Clone, Copy, Debug)]
pub struct AccessQuery {
    pub permission: Permission,
    pub project_id: Option<ProjectId>,
    /// True if the permission is needed for a change.
    pub write: bool,
}

/// The roles of a member in an organization and on one of its projects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    pub org: Option<OrgRole>,
    pub project: Option<ProjectRole>,
}

/// The result of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The subject has the permission.
    Allowed,
    /// The subject lacks the permission, but may know that the object exists.
    Denied(Reason),
    /// The subject must not learn that the object exists; the client gets `NOT_FOUND`.
    Hidden,
}

/// The origin of a member's role on a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleSource {
    /// The member owns the organization (ID-8).
    Ownership,
    /// A grant to the member, or to a team of theirs.
    Grant(Principal),
}

/// The projects that a subject sees.
#[derive(Debug, PartialEq, Eq)]
pub struct VisibleProjects {
    /// True if the subject sees every project of the organization, also those without a role (ID-38).
    pub all: bool,
    /// The projects on which the subject has a role, ordered by id.
    pub roles: Vec<(ProjectId, ProjectRole)>,
}

/// The result of a decision from roles alone, before API keys and the subscription are considered.
#[derive(Clone, Copy, Debug)]
struct RoleCheck {
    /// True if the roles include the permission.
    permitted: bool,
    /// True if the roles let their holder know that the object exists.
    visible: bool,
}

impl RoleCheck {
    const HIDDEN: Self = Self { permitted: false, visible: false };
}

impl Snapshot {
    /// Returns an organization without members.
    pub fn new(org_id: OrgId, version: i64, status: Status) -> Self {
        Self {
            org_id,
            version,
            status,
            members: HashMap::new(),
            teams: HashMap::new(),
            projects: HashMap::new(),
        }
    }

    /// Returns the consistency token of this version.
    pub fn token(&self) -> ConsistencyToken {
        ConsistencyToken { org_id: self.org_id, access_version: self.version }
    }

    /// Returns the role of a member in the organization.
    pub fn org_role(&self, user_id: UserId) -> Option<OrgRole> {
        self.members.get(&user_id).copied()
    }

    /// Returns every role that a member has on a project, with its source.
    pub fn role_sources(
        &self,
        user_id: UserId,
        project_id: ProjectId,
    ) -> Vec<(RoleSource, ProjectRole)> {
        let Some(org_role) = self.org_role(user_id) else { return vec![] };
        let Some(grants) = self.projects.get(&project_id) else { return vec![] };
        let ownership =
            (org_role == OrgRole::Owner).then_some((RoleSource::Ownership, ProjectRole::Admin));
        let granted = grants
            .iter()
            .filter(|(principal, _)| self.includes(principal, user_id))
            .map(|(principal, role)| (RoleSource::Grant(*principal), *role));
        ownership.into_iter().chain(granted).collect()
    }

    /// Returns the effective role on a project: the highest of its sources (ID-37). The role in the
    /// organization neither caps nor raises it, except that the Owner is always Admin (ID-8).
    pub fn project_role(&self, user_id: UserId, project_id: ProjectId) -> Option<ProjectRole> {
        let org_role = self.org_role(user_id)?;
        let grants = self.projects.get(&project_id)?;
        if org_role == OrgRole::Owner {
            return Some(ProjectRole::Admin);
        }
        let granted = grants.iter().filter(|(principal, _)| self.includes(principal, user_id));
        granted.map(|(_, role)| *role).max()
    }

    /// Returns true if a principal is the member, or a team of theirs.
    fn includes(&self, principal: &Principal, user_id: UserId) -> bool {
        match principal {
            Principal::User(id) => *id == user_id,
            Principal::Team(id) => self.teams.get(id).is_some_and(|it| it.contains(&user_id)),
        }
    }

    /// Decides a query for a subject. The limits of an API key are reported before a missing permission, so
    /// that its owner learns to use another credential.
    pub fn verdict(&self, subject: Subject<'_>, query: &AccessQuery) -> Verdict {
        if subject.key.is_some_and(|it| !self.is_in_scope(it, query)) {
            return Verdict::Hidden;
        }
        let RoleCheck { permitted, visible } = self.check_member(subject.user_id, query);
        if !visible {
            return Verdict::Hidden;
        }
        if let Some(reason) = subject.key.and_then(|it| key_denial(it, query)) {
            return Verdict::Denied(reason);
        }
        if !permitted {
            return Verdict::Denied(Reason::MissingPermission);
        }
        if query.write && self.status == Status::Blocked {
            return Verdict::Denied(Reason::SubscriptionBlocked);
        }
        Verdict::Allowed
    }

    /// Returns true if the object of a query is within the organization and project of a key (PL-10).
    fn is_in_scope(&self, key: &ApiKeyScope, query: &AccessQuery) -> bool {
        let project_matches = match (key.project_id, query.project_id) {
            (Some(key_project), Some(query_project)) => key_project == query_project,
            _ => true,
        };
        key.org_id == self.org_id && project_matches
    }

    /// Returns true if a person with these roles has the permission of a query.
    pub fn allows(&self, roles: Roles, query: &AccessQuery) -> bool {
        let RoleCheck { permitted, visible } = self.check_roles(roles, query);
        permitted && visible && !(query.write && self.status == Status::Blocked)
    }

    fn check_member(&self, user_id: UserId, query: &AccessQuery) -> RoleCheck {
        let project_id = match query.permission {
            Permission::Project(_) => query.project_id,
            Permission::Org(_) => None,
        };
        let project = project_id.and_then(|it| self.project_role(user_id, it));
        self.check_roles(Roles { org: self.org_role(user_id), project }, query)
    }

    fn check_roles(&self, roles: Roles, query: &AccessQuery) -> RoleCheck {
        let Some(org_role) = roles.org else { return RoleCheck::HIDDEN };
        let is_deleted = self.status == Status::Deleted;
        match (query.permission, query.project_id) {
            (Permission::Org(permission), _) if permission.code == "org.restore" => {
                let permitted = org_role >= permission.min_role;
                RoleCheck { permitted, visible: !is_deleted || permitted }
            }
            _ if is_deleted => RoleCheck::HIDDEN,
            (Permission::Org(permission), _) => {
                RoleCheck { permitted: org_role >= permission.min_role, visible: true }
            }
            (Permission::Project(_), None) => RoleCheck::HIDDEN,
            (Permission::Project(permission), Some(project_id)) => {
                let is_org_admin =
                    org_role >= OrgRole::Admin && self.projects.contains_key(&project_id);
                let as_org_admin = permission.org_admin && is_org_admin;
                RoleCheck {
                    permitted: as_org_admin || roles.project >= Some(permission.min_role),
                    visible: as_org_admin || roles.project.is_some(),
                }
            }
        }
    }

    /// Returns the projects that a subject sees (ID-38, ID-45); with `after`, only those with a greater id.
    pub fn visible_projects(
        &self,
        subject: Subject<'_>,
        after: Option<ProjectId>,
    ) -> VisibleProjects {
        let key_project = subject.key.and_then(|it| it.project_id);
        let ids = self.projects.keys().copied();
        let ids = ids.filter(|it| key_project.is_none_or(|bound| bound == *it));
        let ids = ids.filter(|it| after.is_none_or(|after| *it > after));
        let mut roles: Vec<_> =
            ids.filter_map(|it| Some((it, self.project_role(subject.user_id, it)?))).collect();
        roles.sort_unstable();
        let is_org_admin = self.org_role(subject.user_id) >= Some(OrgRole::Admin);
        VisibleProjects { all: key_project.is_none() && is_org_admin, roles }
    }

    /// Estimates the memory that the snapshot takes, in bytes. Each factor is the size of a hash map entry
    /// with its share of unused capacity.
    pub fn estimate_bytes(&self) -> usize {
        let team_members: usize = self.teams.values().map(HashSet::len).sum();
        let grants: usize = self.projects.values().map(HashMap::len).sum();
        400 + 40 * self.members.len()
            + 120 * self.teams.len()
            + 40 * team_members
            + 120 * self.projects.len()
            + 48 * grants
    }
}

/// Returns the reason to deny a query to an API key even if its owner has the permission.
fn key_denial(key: &ApiKeyScope, query: &AccessQuery) -> Option<Reason> {
    match (query.permission.keys(), key.project_id) {
        (KeyPolicy::None, _) => Some(Reason::SessionRequired),
        (KeyPolicy::Organization, Some(_)) => Some(Reason::OrgScopeRequired),
        _ if query.write && !key.full => Some(Reason::ReadOnlyKey),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
