//! Conversions of roles and key policies between the contract and the policy.

use api::identity as pb;
use chassis::Error;

use super::{KeyPolicy, OrgRole, ProjectRole};

impl From<OrgRole> for pb::OrgRole {
    fn from(role: OrgRole) -> Self {
        match role {
            OrgRole::Viewer => Self::Viewer,
            OrgRole::Developer => Self::Developer,
            OrgRole::Admin => Self::Admin,
            OrgRole::Owner => Self::Owner,
        }
    }
}

impl TryFrom<pb::OrgRole> for OrgRole {
    type Error = Error;

    fn try_from(role: pb::OrgRole) -> Result<Self, Error> {
        match role {
            pb::OrgRole::Viewer => Ok(Self::Viewer),
            pb::OrgRole::Developer => Ok(Self::Developer),
            pb::OrgRole::Admin => Ok(Self::Admin),
            pb::OrgRole::Owner => Ok(Self::Owner),
            pb::OrgRole::Unspecified => Err(Error::invalid("role", "is required")),
        }
    }
}

impl From<ProjectRole> for pb::ProjectRole {
    fn from(role: ProjectRole) -> Self {
        match role {
            ProjectRole::Viewer => Self::Viewer,
            ProjectRole::Developer => Self::Developer,
            ProjectRole::Admin => Self::Admin,
        }
    }
}

impl TryFrom<pb::ProjectRole> for ProjectRole {
    type Error = Error;

    fn try_from(role: pb::ProjectRole) -> Result<Self, Error> {
        match role {
            pb::ProjectRole::Viewer => Ok(Self::Viewer),
            pb::ProjectRole::Developer => Ok(Self::Developer),
            pb::ProjectRole::Admin => Ok(Self::Admin),
            pb::ProjectRole::Unspecified => Err(Error::invalid("role", "is required")),
        }
    }
}

impl From<KeyPolicy> for pb::KeyPolicy {
    fn from(policy: KeyPolicy) -> Self {
        match policy {
            KeyPolicy::None => Self::None,
            KeyPolicy::Organization => Self::Organization,
            KeyPolicy::Project => Self::Project,
        }
    }
}
