//! Conversions of teams between the contract and the rules.

use api::identity as pb;
use chassis::{Error, mask, timestamp};

use super::{Draft, Patch, Team};

impl From<&Team> for pb::Team {
    fn from(team: &Team) -> Self {
        Self {
            org_id: team.org_id.into(),
            id: team.id.into(),
            name: team.name.clone(),
            description: team.description.clone(),
            color: team.color.clone(),
            member_count: i32::try_from(team.members).unwrap_or(i32::MAX),
            create_time: Some(timestamp(team.created_at)),
            etag: team.etag(),
        }
    }
}

impl TryFrom<&pb::CreateTeamRequest> for Draft {
    type Error = Error;

    fn try_from(request: &pb::CreateTeamRequest) -> Result<Self, Error> {
        Ok(Self {
            name: parse_name(&request.name)?,
            description: request.description.clone(),
            color: request.color.clone(),
        })
    }
}

impl TryFrom<&pb::UpdateTeamRequest> for Patch {
    type Error = Error;

    fn try_from(request: &pb::UpdateTeamRequest) -> Result<Self, Error> {
        let mask = request.update_mask.as_ref();
        let paths = mask::paths(mask, &["name", "description", "color"])?;
        let has = |path: &str| paths.contains(&path);
        Ok(Self {
            name: has("name").then(|| parse_name(&request.name)).transpose()?,
            description: has("description").then(|| request.description.clone()),
            color: has("color").then(|| request.color.clone()),
        })
    }
}

fn parse_name(text: &str) -> Result<String, Error> {
    let name = text.trim();
    if name.is_empty() {
        return Err(Error::invalid("name", "must not be empty"));
    }
    Ok(name.to_owned())
}
