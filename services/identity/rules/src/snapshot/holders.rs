//! Roles and permissions of many members: all of a project in one pass over its grants, and pages of those
//! who have a permission.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Bound,
};

use chassis::{ProjectId, TeamId, UserId};
use rpds::RedBlackTreeSetSync as Set;
use uuid::Uuid;

use super::{AccessQuery, RoleCheck, Snapshot, effective_role};
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

    /// Returns the members who have a permission, ordered by id: at most `limit` of them, with `after` only
    /// those with a greater id. Ordered sets of candidates are read from `after` on, so the cost of a page
    /// does not grow with the number of holders.
    pub fn holders(&self, query: &AccessQuery, after: Option<UserId>, limit: usize) -> Vec<UserId> {
        let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let is_holder = |user_id: &&UserId| {
            let RoleCheck { permitted, visible } = self.check_member(**user_id, query);
            permitted && visible && !self.is_blocked(query)
        };
        let grants = match (query.permission, query.project_id) {
            (Permission::Org(permission), _) if permission.min_role < OrgRole::Admin => {
                let members = self.members.range(range).map(|it| it.0);
                return members.filter(is_holder).take(limit).copied().collect();
            }
            (Permission::Org(_), _) => None,
            (Permission::Project(_), project_id) => {
                project_id.and_then(|it| self.projects.get(&it))
            }
        };
        let mut holders: BTreeSet<UserId> = BTreeSet::new();
        let mut add = |candidates: &mut dyn Iterator<Item = &UserId>| {
            holders.extend(candidates.filter(is_holder).take(limit));
        };
        add(&mut self.admins.range(range));
        if let Some(grants) = grants {
            // Users are ordered before teams.
            let first_user =
                after.map_or(Bound::Unbounded, |it| Bound::Excluded(Principal::User(it)));
            let mut users =
                grants.range((first_user, Bound::Unbounded)).map_while(|it| match it.0 {
                    Principal::User(user_id) => Some(user_id),
                    Principal::Team(_) => None,
                });
            add(&mut users);
            let first_team = Principal::Team(TeamId(Uuid::nil()));
            for (principal, _) in grants.range(first_team..) {
                if let Principal::Team(team_id) = principal
                    && let Some(members) = self.teams.get(team_id)
                {
                    add(&mut members.range(range));
                }
            }
        }
        holders.into_iter().take(limit).collect()
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
