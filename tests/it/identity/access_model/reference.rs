//! Reference model of access: the rules as sets and loops, without index, snapshot or SQL, and without code
//! of the service. Used by the tests of the access engine and of the whole suite.

use std::collections::{BTreeMap, BTreeSet};

/// A role; a higher number includes the permissions of all lower ones. Owner exists in the organization only.
pub(super) type Role = u8;
pub(super) const VIEWER: Role = 1;
pub(super) const DEVELOPER: Role = 2;
pub(super) const ADMIN: Role = 3;
pub(super) const OWNER: Role = 4;

/// Number of a user, team or project.
pub(super) type Id = u8;

/// Holder of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holder {
    User(Id),
    Team(Id),
}

/// An operation by a user.
#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
    Join { user: Id, role: Role },
    ChangeRole { by: Id, user: Id, role: Role },
    Remove { by: Id, user: Id },
    Leave { user: Id },
    Transfer { by: Id, to: Id },
    CreateTeam { by: Id, team: Id },
    DeleteTeam { by: Id, team: Id },
    AddToTeam { by: Id, team: Id, user: Id },
    RemoveFromTeam { by: Id, team: Id, user: Id },
    Grant { by: Id, project: Id, holder: Holder, role: Role },
    Revoke { by: Id, project: Id, holder: Holder },
}

/// Permissions: code, minimum role, and true if Admins of the organization have it on every project.
pub(super) const PERMISSIONS: &[(&str, Role, bool)] = &[
    ("org.view", VIEWER, false),
    ("org.projects.create", DEVELOPER, false),
    ("org.teams.manage", ADMIN, false),
    ("org.billing.manage", OWNER, false),
    ("project.metadata.view", VIEWER, true),
    ("project.view", VIEWER, false),
    ("project.environments.deploy", DEVELOPER, false),
    ("project.environments.update", ADMIN, false),
    ("project.access.manage", ADMIN, true),
];

/// One organization.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) members: BTreeMap<Id, Role>,
    pub(super) teams: BTreeSet<Id>,
    /// Pairs of team and user.
    pub(super) team_members: BTreeSet<(Id, Id)>,
    pub(super) projects: BTreeSet<Id>,
    pub(super) grants: BTreeMap<(Id, Holder), Role>,
}

impl Model {
    /// An organization with an Owner and projects.
    pub(super) fn new(owner: Id, projects: &[Id]) -> Self {
        let members = BTreeMap::from([(owner, OWNER)]);
        Self { members, projects: projects.iter().copied().collect(), ..Self::default() }
    }

    pub(super) fn org_role(&self, user: Id) -> Role {
        self.members.get(&user).copied().unwrap_or(0)
    }

    /// Effective role on a project; 0 for none.
    pub(super) fn project_role(&self, user: Id, project: Id) -> Role {
        if self.org_role(user) == 0 || !self.projects.contains(&project) {
            return 0;
        }
        if self.org_role(user) == OWNER {
            return ADMIN;
        }
        let mut highest = 0;
        for ((on, holder), role) in &self.grants {
            let holds = match holder {
                Holder::User(it) => *it == user,
                Holder::Team(it) => self.team_members.contains(&(*it, user)),
            };
            if *on == project && holds && *role > highest {
                highest = *role;
            }
        }
        // ID-52.
        if self.org_role(user) == VIEWER { highest.min(VIEWER) } else { highest }
    }

    /// True if a user has a permission, in the organization or on a project.
    pub(super) fn is_allowed(&self, user: Id, code: &str, project: Option<Id>) -> bool {
        let (_, minimum, admins_too) = PERMISSIONS.iter().find(|it| it.0 == code).unwrap();
        match project {
            None => self.org_role(user) >= *minimum,
            Some(project) => {
                let admin =
                    *admins_too && self.org_role(user) >= ADMIN && self.projects.contains(&project);
                admin || self.project_role(user, project) >= *minimum
            }
        }
    }

    /// All users who have a permission.
    pub(super) fn who_can(&self, code: &str, project: Option<Id>) -> BTreeSet<Id> {
        self.members.keys().copied().filter(|it| self.is_allowed(*it, code, project)).collect()
    }

    /// Applies an operation if the rules allow it; true if they do.
    pub(super) fn apply(&mut self, op: Op) -> bool {
        let allowed = self.allows(op);
        if allowed {
            self.execute(op);
        }
        allowed
    }

    fn allows(&self, op: Op) -> bool {
        let admin = |by: Id| self.org_role(by) >= ADMIN;
        let member = |it: Id| self.members.contains_key(&it);
        match op {
            Op::Join { user, role } => !member(user) && (VIEWER..=ADMIN).contains(&role),
            // ID-4, ID-14, ID-15, ID-16.
            Op::ChangeRole { by, user, role } => {
                let other = by != user && member(user) && self.org_role(user) != OWNER;
                admin(by) && other && role != OWNER && role <= self.org_role(by)
            }
            // ID-18.
            Op::Remove { by, user } => {
                admin(by) && by != user && member(user) && self.org_role(user) != OWNER
            }
            // ID-7, ID-22.
            Op::Leave { user } => member(user) && self.org_role(user) != OWNER,
            // ID-5.
            Op::Transfer { by, to } => self.org_role(by) == OWNER && by != to && member(to),
            // ID-24, ID-25.
            Op::CreateTeam { by, team } => admin(by) && !self.teams.contains(&team),
            Op::DeleteTeam { by, team } => admin(by) && self.teams.contains(&team),
            Op::AddToTeam { by, team, user } | Op::RemoveFromTeam { by, team, user } => {
                admin(by) && self.teams.contains(&team) && member(user)
            }
            // ID-31, ID-38, ID-43.
            Op::Grant { by, project, holder, .. } => {
                let exists = match holder {
                    Holder::User(it) => member(it),
                    Holder::Team(it) => self.teams.contains(&it),
                };
                self.is_allowed(by, "project.access.manage", Some(project)) && exists
            }
            Op::Revoke { by, project, holder } => {
                let exists = self.grants.contains_key(&(project, holder));
                self.is_allowed(by, "project.access.manage", Some(project)) && exists
            }
        }
    }

    fn execute(&mut self, op: Op) {
        match op {
            Op::Join { user, role } | Op::ChangeRole { user, role, .. } => {
                self.members.insert(user, role);
            }
            // ID-19: team memberships and grants end with the membership.
            Op::Remove { user, .. } | Op::Leave { user } => {
                self.members.remove(&user);
                self.team_members.retain(|it| it.1 != user);
                self.grants.retain(|it, _| it.1 != Holder::User(user));
            }
            Op::Transfer { by, to } => {
                self.members.insert(by, ADMIN);
                self.members.insert(to, OWNER);
            }
            Op::CreateTeam { team, .. } => _ = self.teams.insert(team),
            // ID-28: memberships and grants of a team end with it.
            Op::DeleteTeam { team, .. } => {
                self.teams.remove(&team);
                self.team_members.retain(|it| it.0 != team);
                self.grants.retain(|it, _| it.1 != Holder::Team(team));
            }
            Op::AddToTeam { team, user, .. } => _ = self.team_members.insert((team, user)),
            Op::RemoveFromTeam { team, user, .. } => _ = self.team_members.remove(&(team, user)),
            Op::Grant { project, holder, role, .. } => {
                _ = self.grants.insert((project, holder), role);
            }
            Op::Revoke { project, holder, .. } => _ = self.grants.remove(&(project, holder)),
        }
    }
}
