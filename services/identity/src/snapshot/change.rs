//! Changes of access as they act on the facts, so that one can be tried before it is made.

use std::collections::{HashMap, HashSet};

use chassis::{Error, ProjectId, Result, UserId};

use super::{Principal, Snapshot};
use crate::{
    member::Refused,
    policy::{OrgRole, ProjectRole},
    team::TeamId,
};

/// One change of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A person becomes a member, or a member gets another role.
    SetRole(UserId, OrgRole),
    /// A member goes, with their places in teams and their grants (ID-19).
    RemoveMember(UserId),
    /// A team comes.
    AddTeam(TeamId),
    /// A team goes, with its grants (ID-28).
    DeleteTeam(TeamId),
    /// A member comes into a team (ID-26).
    AddToTeam(TeamId, UserId),
    /// A member goes out of a team (ID-29).
    RemoveFromTeam(TeamId, UserId),
    /// A project comes.
    AddProject(ProjectId),
    /// A principal gets a role on a project, instead of the one it had (ID-27).
    Grant(ProjectId, Principal, ProjectRole),
    /// A principal loses its grant on a project.
    Revoke(ProjectId, Principal),
}

impl Snapshot {
    /// What would be true after a change. Whoever or whatever is not there is not changed (ID-31).
    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::SetRole(user_id, role) => _ = self.members.insert(user_id, role),
            Change::RemoveMember(user_id) => {
                self.members.remove(&user_id);
                self.teams.values_mut().for_each(|it| _ = it.remove(&user_id));
                self.drop_grants_of(Principal::User(user_id));
            }
            Change::AddTeam(team_id) => _ = self.teams.insert(team_id, HashSet::new()),
            Change::DeleteTeam(team_id) => {
                self.teams.remove(&team_id);
                self.drop_grants_of(Principal::Team(team_id));
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
                if self.knows(principal)
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

    /// Whether a change is one that its method would make: who and what it names is there, and the Owner
    /// stays (ID-4, ID-7).
    pub(crate) fn possible(&self, change: Change) -> Result<()> {
        let member = |it: UserId| match self.org_role(it) {
            None => Err(Error::NotFound("member")),
            Some(role) => Ok(role),
        };
        let team = |it: TeamId| {
            if self.teams.contains_key(&it) { Ok(()) } else { Err(Error::NotFound(TeamId::NOUN)) }
        };
        match change {
            Change::SetRole(user_id, _) if member(user_id)? == OrgRole::Owner => {
                Err(Refused::OwnerRole.into())
            }
            Change::RemoveMember(user_id) if member(user_id)? == OrgRole::Owner => {
                Err(Refused::OwnerRemoval.into())
            }
            Change::AddToTeam(team_id, user_id) | Change::RemoveFromTeam(team_id, user_id) => {
                member(user_id)?;
                team(team_id)
            }
            Change::DeleteTeam(team_id) => team(team_id),
            Change::Grant(project_id, principal, _) | Change::Revoke(project_id, principal) => {
                if !self.projects.contains_key(&project_id) {
                    return Err(Error::NotFound(ProjectId::NOUN));
                }
                if self.knows(principal) { Ok(()) } else { Err(Error::NotFound("principal")) }
            }
            _ => Ok(()),
        }
    }

    /// Whether a member or team is of the organization.
    pub(crate) fn knows(&self, principal: Principal) -> bool {
        match principal {
            Principal::User(id) => self.members.contains_key(&id),
            Principal::Team(id) => self.teams.contains_key(&id),
        }
    }

    fn drop_grants_of(&mut self, principal: Principal) {
        self.projects.values_mut().for_each(|it| _ = it.remove(&principal));
    }
}
