//! Conversions of the results of commands on teams.

use api::identity as pb;

use super::commands::{TeamChange, TeamRemoval};

impl From<TeamChange> for pb::CreateTeamResponse {
    fn from(change: TeamChange) -> Self {
        let team = Some((&change.team).into());
        Self { team, consistency_token: change.token.encode() }
    }
}

impl From<TeamChange> for pb::AddTeamMemberResponse {
    fn from(change: TeamChange) -> Self {
        let team = Some((&change.team).into());
        Self { team, consistency_token: change.token.encode() }
    }
}

impl From<TeamChange> for pb::RemoveTeamMemberResponse {
    fn from(change: TeamChange) -> Self {
        let team = Some((&change.team).into());
        Self { team, consistency_token: change.token.encode() }
    }
}

impl From<TeamRemoval> for pb::DeleteTeamResponse {
    fn from(removal: TeamRemoval) -> Self {
        Self {
            removed_member_count: removal.removed_members,
            removed_grant_count: removal.removed_grants,
            consistency_token: removal.token.encode(),
        }
    }
}
