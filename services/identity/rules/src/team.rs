//! Teams: named groups of members. A team holds roles on projects only, none in the organization.

mod wire;

use api::{error::Reason, identity as pb};
use chassis::{Changed, Code, EventTarget, OrgId, Refusal, TeamId, UserId, fold};
use time::OffsetDateTime;

use crate::{
    project_access::{self, ProjectGrant},
    types::{count_i32, event_batches},
};

/// The colour of teams that were created without one: grey.
const DEFAULT_COLOR: &str = "#808080";

/// A named group of members.
#[derive(Clone, Debug)]
pub struct Team {
    pub id: TeamId,
    pub org_id: OrgId,
    pub name: String,
    pub description: String,
    pub color: String,
    /// Incremented with every change of name, description or colour.
    pub revision: i64,
    pub created_at: OffsetDateTime,
    /// Number of members.
    pub members: i64,
}

/// The fields of a new team.
pub struct Draft {
    pub name: String,
    pub description: String,
    pub color: String,
}

/// Changes of a team; `None` leaves a field as it is.
#[derive(Default)]
pub struct Patch {
    pub name: Option<String>,
    pub description: Option<String>,
    pub color: Option<String>,
}

/// Reasons for which a team is not created or changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the organization already has a team named {0}; choose another name")]
    NameTaken(String),
    #[error("the team has changed since it was read; read it again, then retry")]
    Stale,
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::NameTaken(_) => Code::AlreadyExists,
            Self::Stale => Code::Aborted,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::NameTaken(_) => Reason::TeamNameTaken,
            Self::Stale => Reason::Conflict,
        }
    }
}

impl Team {
    /// Creates an empty team (ID-30).
    pub fn create(org_id: OrgId, draft: Draft, now: OffsetDateTime) -> Changed<Self> {
        let team = Self {
            id: TeamId::new(),
            org_id,
            name: draft.name,
            description: draft.description,
            color: normalize_color(&draft.color),
            revision: 1,
            created_at: now,
            members: 0,
        };
        let event = pb::TeamCreated { after: Some((&team).into()) };
        let target = team.event_target();
        Changed::new(team, &event, target)
    }

    /// Changes name, description or colour. `None` if nothing differs.
    pub fn update(&self, patch: Patch, etag: &str) -> Result<Option<Changed<Self>>, Refused> {
        if !etag.is_empty() && etag != self.etag() {
            return Err(Refused::Stale);
        }
        let mut team = self.clone();
        team.name = patch.name.unwrap_or(team.name);
        team.description = patch.description.unwrap_or(team.description);
        team.color = patch.color.map_or(team.color, |it| normalize_color(&it));
        let before: pb::Team = self.into();
        if before == (&team).into() {
            return Ok(None);
        }
        team.revision += 1;
        let event = pb::TeamUpdated { before: Some(before), after: Some((&team).into()) };
        let target = team.event_target();
        Ok(Some(Changed::new(team, &event, target)))
    }

    /// Deletes the team, with its memberships and grants (ID-28).
    pub fn delete(self, members: &[UserId], grants: &[ProjectGrant]) -> Changed<Self> {
        let event = pb::TeamDeleted {
            before: Some((&self).into()),
            removed_member_count: count_i32(members),
            removed_grant_count: count_i32(grants),
        };
        let team_id = self.id;
        let target = self.event_target();
        let member_batches = event_batches(members, |it| String::from(*it));
        let emptied =
            member_batches.map(|user_ids| pb::TeamEmptied { team_id: team_id.into(), user_ids });
        Changed::new(self, &event, target)
            .followed_by(emptied)
            .followed_by(project_access::removal_events(grants))
    }

    /// Adds a member.
    pub fn add_member(mut self, user_id: UserId) -> Changed<Self> {
        self.members += 1;
        let event = pb::TeamMemberAdded { team: Some((&self).into()), user_id: user_id.into() };
        let target = self.event_target();
        Changed::new(self, &event, target)
    }

    /// Removes a member (ID-29).
    pub fn remove_member(mut self, user_id: UserId) -> Changed<Self> {
        self.members -= 1;
        let event = pb::TeamMemberRemoved { team: Some((&self).into()), user_id: user_id.into() };
        let target = self.event_target();
        Changed::new(self, &event, target)
    }

    /// Returns the etag, which differs after every change of name, description or colour.
    pub fn etag(&self) -> String {
        format!("\"{}\"", self.revision)
    }

    fn event_target(&self) -> EventTarget {
        EventTarget::object("team", self.id, &self.name).in_org(self.org_id)
    }
}

fn normalize_color(color: &str) -> String {
    if color.is_empty() { DEFAULT_COLOR.to_owned() } else { color.to_uppercase() }
}

/// Returns the key by which team names are found and must be unique.
pub fn name_key(name: &str) -> String {
    fold::key(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_look_the_same_are_the_same() {
        assert_eq!(name_key("  Support  TEAM "), name_key("support team"));
        assert_eq!(name_key("Cafe\u{301}"), name_key("CAFÉ"));
        assert_ne!(name_key("support"), name_key("support-1"));
        assert_eq!(normalize_color(""), DEFAULT_COLOR);
        assert_eq!(normalize_color("#aabbcc"), "#AABBCC");
    }
}
