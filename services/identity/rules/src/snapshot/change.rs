//! Changes of access, applied to a snapshot: to build one from rows, and to simulate a change.

use chassis::{Error, ProjectId, Result, TeamId, UserId};

use rpds::{RedBlackTreeMapSync as Map, RedBlackTreeSetSync as Set};

use super::Snapshot;
use crate::{
    member::Refused,
    policy::{OrgRole, ProjectRole},
    types::Principal,
};

/// One change of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds a member, or changes a member's role.
    SetRole(UserId, OrgRole),
    /// Removes a member, with their team memberships and grants (ID-19).
    RemoveMember(UserId),
    /// Adds an empty team.
    AddTeam(TeamId),
    /// Removes a team, with its grants (ID-28).
    DeleteTeam(TeamId),
    /// Adds a member to a team (ID-26).
    AddToTeam(TeamId, UserId),
    /// Removes a member from a team (ID-29).
    RemoveFromTeam(TeamId, UserId),
    /// Adds a project without grants.
    AddProject(ProjectId),
    /// Removes a project, with its grants.
    RemoveProject(ProjectId),
    /// Gives a principal a role on a project; replaces the one it had (ID-27).
    Grant(ProjectId, Principal, ProjectRole),
    /// Removes the grant of a principal on a project.
    Revoke(ProjectId, Principal),
}

impl Snapshot {
    /// Applies a change. Changes of unknown members, teams and projects are ignored (ID-31).
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::SetRole(user_id, role) => {
                self.members.insert_mut(user_id, role);
                if role >= OrgRole::Admin {
                    self.admins.insert_mut(user_id);
                } else {
                    self.admins.remove_mut(&user_id);
                }
            }
            Change::RemoveMember(user_id) => {
                for team_id in copied_entries(self.teams_by_member.get(&user_id)) {
                    self.remove_from_team(team_id, user_id);
                }
                self.remove_grants_of(Principal::User(user_id));
                self.members.remove_mut(&user_id);
                self.admins.remove_mut(&user_id);
            }
            Change::AddTeam(team_id) => {
                if !self.teams.contains_key(&team_id) {
                    self.teams.insert_mut(team_id, Set::new_sync());
                }
            }
            Change::DeleteTeam(team_id) => {
                for user_id in copied_entries(self.teams.get(&team_id)) {
                    self.remove_from_team(team_id, user_id);
                }
                self.remove_grants_of(Principal::Team(team_id));
                self.teams.remove_mut(&team_id);
            }
            Change::AddToTeam(team_id, user_id) => self.add_to_team(team_id, user_id),
            Change::RemoveFromTeam(team_id, user_id) => self.remove_from_team(team_id, user_id),
            Change::AddProject(project_id) => {
                if !self.projects.contains_key(&project_id) {
                    self.projects.insert_mut(project_id, Map::new_sync());
                }
            }
            Change::RemoveProject(project_id) => {
                for principal in copied_keys(self.projects.get(&project_id)) {
                    self.revoke(project_id, principal);
                }
                self.projects.remove_mut(&project_id);
            }
            Change::Grant(project_id, principal, role) => self.grant(project_id, principal, role),
            Change::Revoke(project_id, principal) => self.revoke(project_id, principal),
        }
    }

    fn add_to_team(&mut self, team_id: TeamId, user_id: UserId) {
        if !self.members.contains_key(&user_id) {
            return;
        }
        let Some(members) = self.teams.get(&team_id) else { return };
        self.relation_count += usize::from(!members.contains(&user_id));
        self.teams.insert_mut(team_id, members.insert(user_id));
        let teams = self.teams_by_member.get(&user_id).cloned().unwrap_or_else(Set::new_sync);
        self.teams_by_member.insert_mut(user_id, teams.insert(team_id));
    }

    fn remove_from_team(&mut self, team_id: TeamId, user_id: UserId) {
        if let Some(members) = self.teams.get(&team_id) {
            self.relation_count -= usize::from(members.contains(&user_id));
            self.teams.insert_mut(team_id, members.remove(&user_id));
        }
        if let Some(teams) = self.teams_by_member.get(&user_id) {
            let rest = teams.remove(&team_id);
            if rest.is_empty() {
                self.teams_by_member.remove_mut(&user_id);
            } else {
                self.teams_by_member.insert_mut(user_id, rest);
            }
        }
    }

    fn grant(&mut self, project_id: ProjectId, principal: Principal, role: ProjectRole) {
        if !self.contains(principal) {
            return;
        }
        let Some(grants) = self.projects.get(&project_id) else { return };
        self.relation_count += usize::from(!grants.contains_key(&principal));
        self.projects.insert_mut(project_id, grants.insert(principal, role));
        let grants_of_principal = self.grants_by_principal.get(&principal);
        let grants_of_principal = grants_of_principal.cloned().unwrap_or_else(Map::new_sync);
        self.grants_by_principal
            .insert_mut(principal, grants_of_principal.insert(project_id, role));
    }

    fn revoke(&mut self, project_id: ProjectId, principal: Principal) {
        if let Some(grants) = self.projects.get(&project_id) {
            self.relation_count -= usize::from(grants.contains_key(&principal));
            self.projects.insert_mut(project_id, grants.remove(&principal));
        }
        if let Some(grants) = self.grants_by_principal.get(&principal) {
            let rest = grants.remove(&project_id);
            if rest.is_empty() {
                self.grants_by_principal.remove_mut(&principal);
            } else {
                self.grants_by_principal.insert_mut(principal, rest);
            }
        }
    }

    /// Refuses a simulated change that the RPC for the real change would refuse: one that names an unknown
    /// member, team, project or grantee, or that changes or removes the Owner (ID-4, ID-7).
    pub fn validate(&self, change: Change) -> Result<()> {
        match change {
            Change::SetRole(user_id, _) => {
                if self.require_member(user_id)? == OrgRole::Owner {
                    return Err(Refused::OwnerRole.into());
                }
            }
            Change::RemoveMember(user_id) => {
                if self.require_member(user_id)? == OrgRole::Owner {
                    return Err(Refused::OwnerRemoval.into());
                }
            }
            Change::AddToTeam(team_id, user_id) | Change::RemoveFromTeam(team_id, user_id) => {
                self.require_member(user_id)?;
                self.require_team(team_id)?;
            }
            Change::DeleteTeam(team_id) => self.require_team(team_id)?,
            Change::Grant(project_id, principal, _) | Change::Revoke(project_id, principal) => {
                if !self.projects.contains_key(&project_id) {
                    return Err(Error::NotFound(ProjectId::NOUN));
                }
                if !self.contains(principal) {
                    return Err(Error::NotFound("principal"));
                }
            }
            // Cannot be simulated: these changes only build snapshots from rows.
            Change::AddTeam(_) | Change::AddProject(_) | Change::RemoveProject(_) => {}
        }
        Ok(())
    }

    fn require_member(&self, user_id: UserId) -> Result<OrgRole> {
        self.org_role(user_id).ok_or(Error::NotFound("member"))
    }

    fn require_team(&self, team_id: TeamId) -> Result<()> {
        if self.teams.contains_key(&team_id) { Ok(()) } else { Err(Error::NotFound(TeamId::NOUN)) }
    }

    /// Returns true if a member or team belongs to the organization.
    fn contains(&self, principal: Principal) -> bool {
        match principal {
            Principal::User(id) => self.members.contains_key(&id),
            Principal::Team(id) => self.teams.contains_key(&id),
        }
    }

    fn remove_grants_of(&mut self, principal: Principal) {
        for project_id in copied_keys(self.grants_by_principal.get(&principal)) {
            self.revoke(project_id, principal);
        }
    }
}

/// Copies the entries of a set, because the caller changes the set while it iterates over them.
fn copied_entries<T: Ord + Copy>(set: Option<&Set<T>>) -> Vec<T> {
    set.into_iter().flatten().copied().collect()
}

/// Copies the keys of a map, because the caller changes the map while it iterates over them.
fn copied_keys<K: Ord + Copy, V>(map: Option<&Map<K, V>>) -> Vec<K> {
    map.into_iter().flat_map(Map::keys).copied().collect()
}
