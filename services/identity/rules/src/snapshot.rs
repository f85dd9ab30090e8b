//! Members, teams, projects and grants of one organization at one version, and the decisions that follow from
//! them. A snapshot that is in use never changes, so a decision is made from one version.

mod change;
mod holders;
mod wire;

use std::{collections::BTreeMap, ops::Bound};

use api::error::Reason;
use chassis::{ApiKeyScope, OrgId, ProjectId, TeamId, UserId};
use rpds::{RedBlackTreeMapSync as Map, RedBlackTreeSetSync as Set};

use crate::{
    policy::{KeyPolicy, OWNER_WHEN_DELETED, OrgRole, Permission, ProjectRole, WHEN_BLOCKED},
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
    /// Deleted and not yet purged: hidden from everybody but its Owner, who may restore it (ID-35) and read
    /// its log (AU-22).
    Deleted,
}

/// The access data of one organization at one version. The maps are persistent: a clone shares their nodes,
/// and a change copies the path to the entry that it changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    pub org_id: OrgId,
    pub version: i64,
    pub status: Status,
    pub members: Map<UserId, OrgRole>,
    /// The Owner and the Admins: `members` by role.
    admins: Set<UserId>,
    /// The members of each team.
    pub teams: Map<TeamId, Set<UserId>>,
    /// The grants on each project.
    pub projects: Map<ProjectId, Map<Principal, ProjectRole>>,
    /// The teams of each member who has one: `teams` by member.
    teams_by_member: Map<UserId, Set<TeamId>>,
    /// The grants of each principal who has one: `projects` by principal.
    grants_by_principal: Map<Principal, Map<ProjectId, ProjectRole>>,
    /// Number of team memberships and grants.
    relation_count: usize,
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
            members: Map::new_sync(),
            admins: Set::new_sync(),
            teams: Map::new_sync(),
            projects: Map::new_sync(),
            teams_by_member: Map::new_sync(),
            grants_by_principal: Map::new_sync(),
            relation_count: 0,
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
        let granted = self
            .principals(user_id)
            .filter_map(|principal| Some((RoleSource::Grant(principal), *grants.get(&principal)?)));
        ownership.into_iter().chain(granted).collect()
    }

    /// Returns the effective role on a project: the highest of its sources (ID-37), for a Viewer of the
    /// organization at most Viewer (ID-52). The Owner is always Admin (ID-8).
    pub fn project_role(&self, user_id: UserId, project_id: ProjectId) -> Option<ProjectRole> {
        let org_role = self.org_role(user_id)?;
        let grants = self.projects.get(&project_id)?;
        let granted = self.principals(user_id).filter_map(|it| grants.get(&it).copied()).max();
        effective_role(org_role, granted)
    }

    /// Returns the principals whose grants a member has: the member, and their teams.
    fn principals(&self, user_id: UserId) -> impl Iterator<Item = Principal> {
        let teams = self.teams_by_member.get(&user_id).into_iter().flatten();
        std::iter::once(Principal::User(user_id)).chain(teams.copied().map(Principal::Team))
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
        if self.is_blocked(query) {
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
        permitted && visible && !self.is_blocked(query)
    }

    /// Returns true if a blocked subscription forbids the change of a query (PL-4). Leaving, deletion and
    /// export are rights of people, which do not depend on a payment.
    fn is_blocked(&self, query: &AccessQuery) -> bool {
        let is_right = WHEN_BLOCKED.contains(&query.permission.code());
        query.write && self.status == Status::Blocked && !is_right
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
            (Permission::Org(permission), _) if is_deleted => {
                let is_kept = OWNER_WHEN_DELETED.contains(&permission.code);
                let permitted = is_kept && org_role == OrgRole::Owner;
                RoleCheck { permitted, visible: permitted }
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

    /// Returns the projects that a subject sees (ID-38, ID-45): at most `limit` of them, with `after` only
    /// those with a greater id.
    pub fn visible_projects(
        &self,
        subject: Subject<'_>,
        after: Option<ProjectId>,
        limit: usize,
    ) -> VisibleProjects {
        let user_id = subject.user_id;
        let key_project = subject.key.and_then(|it| it.project_id);
        let org_role = self.org_role(user_id);
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = (first, Bound::Unbounded);
        let is_in_scope = |it: &ProjectId| key_project.is_none_or(|bound| bound == *it);
        let mut roles = BTreeMap::new();
        match org_role {
            None => {}
            Some(OrgRole::Owner) => {
                let ids = self.projects.range(range).map(|it| *it.0).filter(is_in_scope);
                roles.extend(ids.take(limit).map(|it| (it, ProjectRole::Admin)));
            }
            Some(org_role) => {
                for principal in self.principals(user_id) {
                    let Some(grants) = self.grants_by_principal.get(&principal) else { continue };
                    let granted = grants.range(range).filter(|it| is_in_scope(it.0));
                    for (project_id, role) in granted.take(limit) {
                        let Some(role) = effective_role(org_role, Some(*role)) else { continue };
                        let highest = roles.entry(*project_id).or_insert(role);
                        *highest = role.max(*highest);
                    }
                }
            }
        }
        VisibleProjects {
            all: key_project.is_none() && org_role >= Some(OrgRole::Admin),
            roles: roles.into_iter().take(limit).collect(),
        }
    }

    /// Estimates the memory that the snapshot takes, in bytes. What it shares with other versions counts.
    pub fn estimate_bytes(&self) -> usize {
        // A node of a map with its reference counts; relations are stored from both sides.
        const NODE: usize = 120;
        let objects = self.members.size() + self.teams.size() + self.projects.size();
        400 + NODE * (objects + 2 * self.relation_count)
    }
}

/// Returns the effective role on a project of a member with a role in the organization and a highest grant
/// (ID-8, ID-37, ID-52).
fn effective_role(org_role: OrgRole, granted: Option<ProjectRole>) -> Option<ProjectRole> {
    match org_role {
        OrgRole::Owner => Some(ProjectRole::Admin),
        OrgRole::Viewer => granted.map(|_| ProjectRole::Viewer),
        OrgRole::Admin | OrgRole::Developer => granted,
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
