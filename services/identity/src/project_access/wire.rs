//! Between the contract and the rules.

use api::identity as pb;
use chassis::{Error, timestamp};

use super::ProjectGrant;
use crate::policy::ProjectRole;

impl From<&ProjectGrant> for pb::ProjectGrant {
    fn from(it: &ProjectGrant) -> Self {
        Self {
            org_id: it.org_id.into(),
            project_id: it.project_id.into(),
            user_id: it.user_id.into(),
            role: pb::ProjectRole::from(it.role).into(),
            granted_by: it.granted_by.into(),
            create_time: Some(timestamp(it.created_at)),
        }
    }
}

impl From<ProjectRole> for pb::ProjectRole {
    fn from(it: ProjectRole) -> Self {
        match it {
            ProjectRole::Viewer => Self::Viewer,
            ProjectRole::Developer => Self::Developer,
            ProjectRole::Admin => Self::Admin,
        }
    }
}

impl TryFrom<pb::ProjectRole> for ProjectRole {
    type Error = Error;

    fn try_from(it: pb::ProjectRole) -> Result<Self, Error> {
        match it {
            pb::ProjectRole::Viewer => Ok(Self::Viewer),
            pb::ProjectRole::Developer => Ok(Self::Developer),
            pb::ProjectRole::Admin => Ok(Self::Admin),
            pb::ProjectRole::Unspecified => Err(Error::invalid("role", "is required")),
        }
    }
}
