//! Conversion of a simulated change from the contract.

use api::identity::{self as pb, access_change::Change as ChangeMessage};
use chassis::Error;

use super::Change;
use crate::{
    policy::{OrgRole, ProjectRole},
    types::Principal,
};

impl TryFrom<&pb::AccessChange> for Change {
    type Error = Error;

    fn try_from(message: &pb::AccessChange) -> Result<Self, Error> {
        let missing = || Error::invalid("changes", "must each set one change");
        Ok(match message.change.as_ref().ok_or_else(missing)? {
            ChangeMessage::ChangeRole(it) => {
                Self::SetRole(it.user_id.parse()?, OrgRole::try_from(it.role())?)
            }
            ChangeMessage::RemoveMember(it) => Self::RemoveMember(it.user_id.parse()?),
            ChangeMessage::AddToTeam(it) => {
                Self::AddToTeam(it.team_id.parse()?, it.user_id.parse()?)
            }
            ChangeMessage::RemoveFromTeam(it) => {
                Self::RemoveFromTeam(it.team_id.parse()?, it.user_id.parse()?)
            }
            ChangeMessage::DeleteTeam(it) => Self::DeleteTeam(it.team_id.parse()?),
            ChangeMessage::Grant(it) => Self::Grant(
                it.project_id.parse()?,
                Principal::try_from(&it.principal)?,
                ProjectRole::try_from(it.role())?,
            ),
            ChangeMessage::Revoke(it) => {
                Self::Revoke(it.project_id.parse()?, Principal::try_from(&it.principal)?)
            }
        })
    }
}
