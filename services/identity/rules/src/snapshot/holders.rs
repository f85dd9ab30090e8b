//! Roles and permissions of all members at once, in one pass over the grants.

use std::collections::HashMap;

use chassis::{ProjectId, UserId};

use rpds::RedBlackTreeSetSync as Set;

use super::{AccessQuery, Roles, Snapshot, effective_role};
use crate::{
    policy::{OrgRole, Permission, ProjectRole},
    types::Principal,
};

impl Snapshot {
    /// Returns the effective role of every member who has one on a project (ID-37).
    pub fn project_roles(&self, project_id: ProjectId) -> HashMap<UserId, ProjectRole> {
        let mut roles = HashMap::new();
        let Some(grants) = self.projects.get(&project_id) else { return roles };
        for (principal, role) in grants {
            let mut raise = |user_id: UserId| {
                let highest = roles.entry(user_id).or_insert(*role);
                *highest = (*highest).max(*role);
            };
            match principal {
                Principal::User(id) => raise(*id),
                Principal::Team(id) => {
                    self.teams.get(id).into_iter().flatten().for_each(|it| raise(*it));
                }
            }
        }
        roles.retain(|user_id, role| {
            let org_role = self.org_role(*user_id);
            let effective = org_role.and_then(|it| effective_role(it, Some(*role)));
            effective.map(|it| *role = it).is_some()
        });
        let owners = self.members.iter().filter(|(_, role)| **role == OrgRole::Owner);
        roles.extend(owners.map(|(user_id, _)| (*user_id, ProjectRole::Admin)));
        roles
    }

    /// Returns the members who have a permission, ordered by id.
    pub fn holders(&self, query: &AccessQuery) -> Vec<UserId> {
        let project_id = match query.permission {
            Permission::Project(_) => query.project_id,
            Permission::Org(_) => None,
        };
        let project_roles = project_id.map(|it| self.project_roles(it)).unwrap_or_default();
        let is_holder = |(user_id, org_role): &(&UserId, &OrgRole)| {
            let project = project_roles.get(*user_id).copied();
            self.allows(Roles { org: Some(**org_role), project }, query)
        };
        self.members.iter().filter(is_holder).map(|it| *it.0).collect()
    }

    /// Counts the grants and team memberships from which the roles on a project follow; for the organization
    /// (`None`), its members. The cost of a comparison of roles is proportional to it.
    pub fn count_role_inputs(&self, project_id: Option<ProjectId>) -> usize {
        let Some(project_id) = project_id else { return self.members.size() };
        let inputs = |principal: &Principal| match principal {
            Principal::User(_) => 1,
            Principal::Team(id) => 1 + self.teams.get(id).map_or(0, Set::size),
        };
        self.projects.get(&project_id).map_or(0, |it| it.keys().map(inputs).sum())
    }
}
