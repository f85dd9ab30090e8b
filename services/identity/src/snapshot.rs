//! The facts about one organization's access at one version, and what follows from them. Immutable once it
//! is shared: a decision never sees half a change.

use std::collections::{HashMap, HashSet};

use api::error::Reason;
use chassis::{KeyPower, OrgId, ProjectId, UserId};
use uuid::Uuid;

use crate::{
    policy::{KeyReach, OrgRole, Permission, ProjectRole},
    team::TeamId,
};

/// Who holds a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Principal {
    /// A member.
    User(UserId),
    /// A team.
    Team(TeamId),
}

impl Principal {
    /// The id of the account or team.
    pub(crate) fn id(self) -> Uuid {
        match self {
            Self::User(id) => id.0,
            Self::Team(id) => id.0,
        }
    }
}

/// Whether an organization may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It may.
    Active,
    /// Reads go on, writes do not (PL-4).
    Blocked,
    /// It waits for its purge, and only its Owner knows that it was there (ID-35).
    Deleted,
}

/// The access of one organization at one version.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) org_id: OrgId,
    pub(crate) version: i64,
    pub(crate) standing: Standing,
    pub(crate) members: HashMap<UserId, OrgRole>,
    pub(crate) teams: HashMap<TeamId, HashSet<UserId>>,
    pub(crate) projects: HashMap<ProjectId, HashMap<Principal, ProjectRole>>,
}

/// Who wants to do something: a person, or a key on their behalf.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) user_id: UserId,
    pub(crate) key: Option<&'a KeyPower>,
}

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) permission: Permission,
    pub(crate) project_id: Option<ProjectId>,
    pub(crate) write: bool,
}

/// The roles of a member in an organization and on one of its projects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Roles {
    pub(crate) org: Option<OrgRole>,
    pub(crate) project: Option<ProjectRole>,
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// They may.
    Allowed,
    /// They may not, and may know that the object exists.
    Denied(Reason),
    /// They may not even know.
    Hidden,
}

/// Why a person has a role on a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// They own the organization (ID-8).
    Ownership,
    /// A grant to them, or to a team of theirs.
    Grant(Principal),
}

impl Snapshot {
    /// An organization without anybody.
    pub(crate) fn new(org_id: OrgId, version: i64, standing: Standing) -> Self {
        let (members, teams, projects) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { org_id, version, standing, members, teams, projects }
    }

    /// The role in the organization.
    pub(crate) fn org_role(&self, user_id: UserId) -> Option<OrgRole> {
        self.members.get(&user_id).copied()
    }

    /// Everything that gives a member a role on a project (1.6).
    pub(crate) fn sources(
        &self,
        user_id: UserId,
        project_id: ProjectId,
    ) -> Vec<(Source, ProjectRole)> {
        let Some(org_role) = self.org_role(user_id) else { return vec![] };
        let Some(grants) = self.projects.get(&project_id) else { return vec![] };
        let held = grants.iter().filter(|it| self.is(user_id, it.0));
        let owner = (org_role == OrgRole::Owner).then_some((Source::Ownership, ProjectRole::Admin));
        let granted = held.map(|(principal, role)| (Source::Grant(*principal), *role));
        owner.into_iter().chain(granted).collect()
    }

    /// The effective role on a project: the highest of its sources (ID-37). The role in the organization
    /// neither caps nor raises it.
    pub(crate) fn project_role(
        &self,
        user_id: UserId,
        project_id: ProjectId,
    ) -> Option<ProjectRole> {
        if self.org_role(user_id) == Some(OrgRole::Owner) && self.projects.contains_key(&project_id)
        {
            return Some(ProjectRole::Admin);
        }
        self.org_role(user_id)?;
        let grants = self.projects.get(&project_id)?;
        grants.iter().filter(|it| self.is(user_id, it.0)).map(|it| *it.1).max()
    }

    /// Whether a member is meant by a principal: themselves, or a team of theirs.
    fn is(&self, user_id: UserId, principal: &Principal) -> bool {
        match principal {
            Principal::User(id) => *id == user_id,
            Principal::Team(id) => self.teams.get(id).is_some_and(|it| it.contains(&user_id)),
        }
    }

    /// Whether a wish is granted.
    pub(crate) fn verdict(&self, subject: Subject<'_>, wish: &Wish) -> Verdict {
        if subject.key.is_some_and(|it| !self.reaches(it, wish)) {
            return Verdict::Hidden;
        }
        let (held, visible) = self.holds(subject.user_id, wish);
        if !visible {
            return Verdict::Hidden;
        }
        match subject.key.and_then(|it| refused_to_key(it, wish)) {
            Some(reason) => Verdict::Denied(reason),
            None if !held => Verdict::Denied(Reason::MissingPermission),
            None if wish.write && self.standing == Standing::Blocked => {
                Verdict::Denied(Reason::SubscriptionBlocked)
            }
            None => Verdict::Allowed,
        }
    }

    /// Whether a key may know of the place of a wish (PL-10).
    fn reaches(&self, key: &KeyPower, wish: &Wish) -> bool {
        let of_project =
            key.project_id.is_none_or(|bound| wish.project_id.is_none_or(|it| it == bound));
        key.org_id == self.org_id && of_project
    }

    /// Whether roles are enough for what a person wants.
    pub(crate) fn allows(&self, roles: Roles, wish: &Wish) -> bool {
        let (held, visible) = self.holds_by(roles, wish);
        held && visible && !(wish.write && self.standing == Standing::Blocked)
    }

    /// Whether a person has a permission, and whether they may know of its object.
    fn holds(&self, user_id: UserId, wish: &Wish) -> (bool, bool) {
        let project = match wish.permission {
            Permission::Project(..) => wish.project_id,
            Permission::Org(..) => None,
        };
        let project = project.and_then(|it| self.project_role(user_id, it));
        self.holds_by(Roles { org: self.org_role(user_id), project }, wish)
    }

    fn holds_by(&self, roles: Roles, wish: &Wish) -> (bool, bool) {
        let (Some(org_role), role) = (roles.org, roles.project) else { return (false, false) };
        let deleted = self.standing == Standing::Deleted;
        match (wish.permission, wish.project_id) {
            (Permission::Org("org.restore", least, _), _) => {
                (org_role >= least, !deleted || org_role >= least)
            }
            _ if deleted => (false, false),
            (Permission::Org(_, least, _), _) => (org_role >= least, true),
            (Permission::Project(..), None) => (false, false),
            (Permission::Project(_, least, admin_too, _), Some(project_id)) => {
                let administers =
                    org_role >= OrgRole::Admin && self.projects.contains_key(&project_id);
                let as_admin = admin_too && administers;
                (as_admin || role >= Some(least), as_admin || role.is_some())
            }
        }
    }

    /// The projects that a subject sees, with their role; and whether they see all of them (ID-38, ID-45).
    /// With `after`, only those whose id comes after it.
    pub(crate) fn visible(
        &self,
        subject: Subject<'_>,
        after: Option<ProjectId>,
    ) -> (bool, Vec<(ProjectId, ProjectRole)>) {
        let bound = subject.key.and_then(|it| it.project_id);
        let ids = self.projects.keys().filter(|it| bound.is_none_or(|bound| bound == **it));
        let ids = ids.filter(|it| after.is_none_or(|after| **it > after));
        let roles = ids.filter_map(|it| Some((*it, self.project_role(subject.user_id, *it)?)));
        let mut roles: Vec<_> = roles.collect();
        roles.sort_unstable();
        (bound.is_none() && self.org_role(subject.user_id) >= Some(OrgRole::Admin), roles)
    }

    /// About how much memory it takes, in bytes.
    pub(crate) fn weight(&self) -> usize {
        let team_places: usize = self.teams.values().map(HashSet::len).sum();
        let grants: usize = self.projects.values().map(HashMap::len).sum();
        400 + 40 * self.members.len()
            + 120 * self.teams.len()
            + 40 * team_places
            + 120 * self.projects.len()
            + 48 * grants
    }
}

/// Why a key may not have what its owner might.
fn refused_to_key(key: &KeyPower, wish: &Wish) -> Option<Reason> {
    match (wish.permission.keys(), key.project_id) {
        (KeyReach::Nobody, _) => Some(Reason::SessionRequired),
        (KeyReach::Org, Some(_)) => Some(Reason::OrgScopeRequired),
        _ if wish.write && !key.full => Some(Reason::ReadOnlyKey),
        _ => None,
    }
}

mod change;
mod holders;

pub(crate) use change::Change;

#[cfg(test)]
mod tests;
