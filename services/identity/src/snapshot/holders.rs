//! Roles and permissions of all members at once, with one look at each grant.

use std::collections::{HashMap, HashSet};

use chassis::{ProjectId, UserId};

use super::{Principal, Roles, Snapshot, Wish};
use crate::policy::{OrgRole, Permission, ProjectRole};

impl Snapshot {
    /// The effective role of every member who has one on a project (ID-37).
    pub(crate) fn project_roles(&self, project_id: ProjectId) -> HashMap<UserId, ProjectRole> {
        let mut roles = HashMap::new();
        let Some(grants) = self.projects.get(&project_id) else { return roles };
        for (principal, role) in grants {
            let mut raise = |user_id: UserId| {
                let held = roles.entry(user_id).or_insert(*role);
                *held = (*held).max(*role);
            };
            match principal {
                Principal::User(id) => raise(*id),
                Principal::Team(id) => {
                    self.teams.get(id).into_iter().flatten().for_each(|it| raise(*it));
                }
            }
        }
        roles.retain(|it, _| self.members.contains_key(it));
        let owners = self.members.iter().filter(|it| *it.1 == OrgRole::Owner);
        roles.extend(owners.map(|it| (*it.0, ProjectRole::Admin)));
        roles
    }

    /// The members who have a permission, in the order of their ids.
    pub(crate) fn holders(&self, wish: &Wish) -> Vec<UserId> {
        let on_project = match wish.permission {
            Permission::Project(..) => wish.project_id,
            Permission::Org(..) => None,
        };
        let of_project = on_project.map(|it| self.project_roles(it)).unwrap_or_default();
        let holds = |(user_id, org_role): &(&UserId, &OrgRole)| {
            let project = of_project.get(*user_id).copied();
            self.allows(Roles { org: Some(**org_role), project }, wish)
        };
        let mut holders: Vec<_> = self.members.iter().filter(holds).map(|it| *it.0).collect();
        holders.sort_unstable();
        holders
    }

    /// How many grants and team memberships make up the access to a place: a project, or the organization.
    pub(crate) fn extent(&self, place: Option<ProjectId>) -> usize {
        let Some(place) = place else { return self.members.len() };
        let size = |principal: &Principal| match principal {
            Principal::User(_) => 1,
            Principal::Team(id) => 1 + self.teams.get(id).map_or(0, HashSet::len),
        };
        self.projects.get(&place).map_or(0, |it| it.keys().map(size).sum())
    }
}
