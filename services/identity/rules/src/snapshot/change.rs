//! Changes of access, applied to a snapshot: to build one from rows, and to simulate a change.

use std::collections::{HashMap, HashSet};

use chassis::{Error, ProjectId, Result, TeamId, UserId};

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
    /// Gives a principal a role on a project; replaces the one it had (ID-27).
    Grant(ProjectId, Principal, ProjectRole),
    /// Removes the grant of a principal on a project.
    Revoke(ProjectId, Principal),
}

impl Snapshot {
    /// Applies a change. Changes of unknown members, teams and projects are ignored (ID-31).
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::SetRole(user_id, role) => _ = self.members.insert(user_id, role),
            Change::RemoveMember(user_id) => {
                self.members.remove(&user_id);
                self.teams.values_mut().for_each(|it| _ = it.remove(&user_id));
                self.remove_grants_of(Principal::User(user_id));
            }
            Change::AddTeam(team_id) => _ = self.teams.insert(team_id, HashSet::new()),
            Change::DeleteTeam(team_id) => {
                self.teams.remove(&team_id);
                self.remove_grants_of(Principal::Team(team_id));
            }
            Change::AddToTeam(team_id, user_id) => {
                if self.members.contains_key(&user_id)
                    && let Some(team) = self.teams.get_mut(&team_id)
                {
                    team.insert(user_id);
                }
            }
            Change::RemoveFromTeam(team_id, user_id) => {
                if let Some(team) = self.teams.get_mut(&team_id) {
                    team.remove(&user_id);
                }
            }
            Change::AddProject(project_id) => {
                self.projects.insert(project_id, HashMap::new());
            }
            Change::Grant(project_id, principal, role) => {
                if self.contains(principal)
                    && let Some(grants) = self.projects.get_mut(&project_id)
                {
                    grants.insert(principal, role);
                }
            }
            Change::Revoke(project_id, principal) => {
                if let Some(grants) = self.projects.get_mut(&project_id) {
                    grants.remove(&principal);
                }
            }
        }
    }

    /// Refuses a simulated change that the method for it would refuse: one that names an unknown member,
    /// team, project or grantee, or that changes or removes the Owner (ID-4, ID-7).
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
            // They only build snapshots from rows; no method that is simulated makes them.
            Change::AddTeam(_) | Change::AddProject(_) => {}
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
        self.projects.values_mut().for_each(|it| _ = it.remove(&principal));
    }
}
