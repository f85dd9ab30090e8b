//! Between the contract and the rules.

use api::identity as pb;
use chassis::{Error, mask, timestamp};

use super::{Draft, Patch, Team};

impl From<&Team> for pb::Team {
    fn from(it: &Team) -> Self {
        Self {
            org_id: it.org_id.into(),
            id: it.id.into(),
            name: it.name.clone(),
            description: it.description.clone(),
            color: it.color.clone(),
            member_count: i32::try_from(it.members).unwrap_or(i32::MAX),
            create_time: Some(timestamp(it.created_at)),
            etag: it.etag(),
        }
    }
}

impl TryFrom<&pb::CreateTeamRequest> for Draft {
    type Error = Error;

    fn try_from(it: &pb::CreateTeamRequest) -> Result<Self, Error> {
        let (description, color) = (it.description.clone(), it.color.clone());
        Ok(Self { name: name(&it.name)?, description, color })
    }
}

impl TryFrom<&pb::UpdateTeamRequest> for Patch {
    type Error = Error;

    fn try_from(it: &pb::UpdateTeamRequest) -> Result<Self, Error> {
        let paths = mask::paths(it.update_mask.as_ref(), &["name", "description", "color"])?;
        let has = |path: &str| paths.contains(&path);
        Ok(Self {
            name: has("name").then(|| name(&it.name)).transpose()?,
            description: has("description").then(|| it.description.clone()),
            color: has("color").then(|| it.color.clone()),
        })
    }
}

fn name(given: &str) -> Result<String, Error> {
    let name = given.trim();
    if name.is_empty() {
        Err(Error::invalid("name", "must not be empty"))
    } else {
        Ok(name.to_owned())
    }
}
