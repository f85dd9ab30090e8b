//! Between the contract and the rules.

use std::time::Duration;

use api::{
    error::Reason,
    identity::{self as pb, access_change::Change as Choice},
};
use chassis::{Error, Result, access::Decision};
use data_encoding::HEXLOWER;
use prost::Message;

use super::Freshness;
use crate::{
    policy::{self, KeyReach, OrgRole, Permission, ProjectRole},
    snapshot::{Change, Principal, Wish},
};

/// How fresh an answer must be, as its caller says.
pub(crate) fn freshness(it: Option<&pb::Consistency>, known: Option<&str>) -> Result<Freshness> {
    match it {
        Some(it) if !it.at_least.is_empty() => Freshness::at_least(&it.at_least),
        Some(it) if it.max_age_ms > 0 => {
            Ok(Freshness::Within(Duration::from_millis(it.max_age_ms.unsigned_abs().into())))
        }
        _ => Freshness::newest(known),
    }
}

/// A wish, as its fields say; `field` is where the permission stands.
pub(crate) fn wish(field: &str, code: &str, project_id: &str, write: bool) -> Result<Wish> {
    let permission = Permission::parse(code);
    let permission = permission.ok_or_else(|| {
        Error::invalid(field, "is no permission; AccessService/GetPermissionMatrix lists them")
    })?;
    let project_id = if project_id.is_empty() { None } else { Some(project_id.parse()?) };
    Ok(Wish { permission, project_id, write })
}

/// A short form of changes, which a page token is bound to.
pub(crate) fn digest(changes: &[pb::AccessChange]) -> String {
    let encoded: Vec<u8> =
        changes.iter().flat_map(Message::encode_length_delimited_to_vec).collect();
    HEXLOWER.encode(&chassis::key::hash(&encoded))
}

/// An answer of `BatchCheck`.
pub(crate) fn answer(it: &Decision) -> pb::CheckAnswer {
    pb::CheckAnswer { allowed: it.allowed, visible: it.visible, reason: reason(it).into() }
}

/// Why not; unspecified if allowed.
pub(crate) fn reason(it: &Decision) -> Reason {
    match (it.allowed, it.visible) {
        (true, _) => Reason::Unspecified,
        (false, true) => it.reason,
        (false, false) => Reason::NotFound,
    }
}

/// The whole matrix.
pub(crate) fn matrix() -> pb::GetPermissionMatrixResponse {
    let org_roles = [OrgRole::Viewer, OrgRole::Developer, OrgRole::Admin, OrgRole::Owner];
    let project_roles = [ProjectRole::Viewer, ProjectRole::Developer, ProjectRole::Admin];
    let organization = policy::ORG.iter().map(|(code, least, keys)| pb::PermissionRow {
        permission: (*code).to_owned(),
        roles: org_roles.iter().filter(|it| *it >= least).map(|it| it.word().to_owned()).collect(),
        org_admin: false,
        keys: reach(*keys).into(),
    });
    let project = policy::PROJECT.iter().map(|(code, least, admin, keys)| pb::PermissionRow {
        permission: (*code).to_owned(),
        roles: project_roles
            .iter()
            .filter(|it| *it >= least)
            .map(|it| it.word().to_owned())
            .collect(),
        org_admin: *admin,
        keys: reach(*keys).into(),
    });
    pb::GetPermissionMatrixResponse {
        organization: organization.collect(),
        project: project.collect(),
    }
}

fn reach(it: KeyReach) -> pb::KeyReach {
    match it {
        KeyReach::Nobody => pb::KeyReach::None,
        KeyReach::Org => pb::KeyReach::Organization,
        KeyReach::Any => pb::KeyReach::Project,
    }
}

impl TryFrom<&pb::AccessChange> for Change {
    type Error = Error;

    fn try_from(it: &pb::AccessChange) -> Result<Self, Error> {
        let missing = || Error::invalid("changes", "must each name a change");
        Ok(match it.change.as_ref().ok_or_else(missing)? {
            Choice::ChangeRole(it) => {
                Self::SetRole(it.user_id.parse()?, OrgRole::try_from(it.role())?)
            }
            Choice::RemoveMember(it) => Self::RemoveMember(it.user_id.parse()?),
            Choice::AddToTeam(it) => Self::AddToTeam(it.team_id.parse()?, it.user_id.parse()?),
            Choice::RemoveFromTeam(it) => {
                Self::RemoveFromTeam(it.team_id.parse()?, it.user_id.parse()?)
            }
            Choice::DeleteTeam(it) => Self::DeleteTeam(it.team_id.parse()?),
            Choice::Grant(it) => Self::Grant(
                it.project_id.parse()?,
                Principal::try_from(&it.principal)?,
                ProjectRole::try_from(it.role())?,
            ),
            Choice::Revoke(it) => {
                Self::Revoke(it.project_id.parse()?, Principal::try_from(&it.principal)?)
            }
        })
    }
}
