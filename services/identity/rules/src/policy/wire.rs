//! Conversions of roles, key policies and permissions between the contract and the policy.

use api::identity as pb;
use chassis::Error;

use super::{KeyPolicy, OrgPermission, OrgRole, ProjectPermission, ProjectRole};

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

impl From<&OrgPermission> for pb::PermissionRow {
    fn from(permission: &OrgPermission) -> Self {
        let roles = [OrgRole::Viewer, OrgRole::Developer, OrgRole::Admin, OrgRole::Owner];
        let roles = roles.into_iter().filter(|it| *it >= permission.min_role);
        Self {
            permission: permission.code.to_owned(),
            roles: roles.map(|it| it.as_str().to_owned()).collect(),
            org_admin: false,
            keys: pb::KeyPolicy::from(permission.keys).into(),
        }
    }
}

impl From<&ProjectPermission> for pb::PermissionRow {
    fn from(permission: &ProjectPermission) -> Self {
        let roles = [ProjectRole::Viewer, ProjectRole::Developer, ProjectRole::Admin];
        let roles = roles.into_iter().filter(|it| *it >= permission.min_role);
        Self {
            permission: permission.code.to_owned(),
            roles: roles.map(|it| it.as_str().to_owned()).collect(),
            org_admin: permission.org_admin,
            keys: pb::KeyPolicy::from(permission.keys).into(),
        }
    }
}
