//! Teams: named groups of members. A team has no rights of its own; it gets roles on projects.

pub(crate) mod rpc;
pub(crate) mod store;
mod wire;

use api::{error::Reason, identity as pb};
use chassis::{About, Changed, Code, Grant, OrgId, Refusal, UserId};
use time::OffsetDateTime;

use crate::{
    member::{count, parts},
    project_access::{self, ProjectGrant},
};

chassis::id!(
    /// Identifies a team.
    TeamId,
    "team"
);

/// Of a team whose badge nobody coloured.
const GREY: &str = "#808080";

/// A named group of members.
#[derive(Clone, Debug)]
pub(crate) struct Team {
    pub(crate) id: TeamId,
    pub(crate) org_id: OrgId,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) color: String,
    pub(crate) revision: i64,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) members: i64,
}

/// What an Admin gives to create a team.
pub(crate) struct Draft {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) color: String,
}

/// What changes of a team.
#[derive(Default)]
pub(crate) struct Patch {
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) color: Option<String>,
}

/// Why a team does not come to be, or change.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the organization has a team named {0}")]
    NameTaken(String),
    #[error("the team changed since you read it; read it again")]
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
    /// An empty team (ID-30).
    pub(crate) fn create(grant: &Grant, draft: Draft, now: OffsetDateTime) -> Changed<Self> {
        let it = Self {
            id: TeamId::new(),
            org_id: grant.org_id(),
            name: draft.name,
            description: draft.description,
            color: color(&draft.color),
            revision: 1,
            created_at: now,
            members: 0,
        };
        let event = pb::TeamCreated { after: Some((&it).into()) };
        let about = it.about();
        Changed::new(it, &event, about)
    }

    /// Another name, description or colour. `None`: everything is so already.
    pub(crate) fn update(
        &self,
        patch: Patch,
        etag: &str,
    ) -> Result<Option<Changed<Self>>, Refused> {
        if !etag.is_empty() && etag != self.etag() {
            return Err(Refused::Stale);
        }
        let mut it = self.clone();
        it.name = patch.name.unwrap_or(it.name);
        it.description = patch.description.unwrap_or(it.description);
        it.color = patch.color.map_or(it.color, |it| color(&it));
        let before: pb::Team = self.into();
        if before == (&it).into() {
            return Ok(None);
        }
        it.revision += 1;
        let event = pb::TeamUpdated { before: Some(before), after: Some((&it).into()) };
        let about = it.about();
        Ok(Some(Changed::new(it, &event, about)))
    }

    /// The team goes, and with it what it gave (ID-28).
    pub(crate) fn delete(self, members: &[UserId], grants: &[ProjectGrant]) -> Changed<Self> {
        let event = pb::TeamDeleted {
            before: Some((&self).into()),
            removed_member_count: count(members),
            removed_grant_count: count(grants),
        };
        let (team_id, about) = (self.id, self.about());
        let emptied = parts(members, |it| String::from(*it));
        Changed::new(self, &event, about)
            .followed_by(
                emptied.map(|user_ids| pb::TeamEmptied { team_id: team_id.into(), user_ids }),
            )
            .followed_by(project_access::removed(grants))
    }

    /// A member comes in.
    pub(crate) fn add(mut self, user_id: UserId) -> Changed<Self> {
        self.members += 1;
        let event = pb::TeamMemberAdded { team: Some((&self).into()), user_id: user_id.into() };
        let about = self.about();
        Changed::new(self, &event, about)
    }

    /// A member goes out (ID-29).
    pub(crate) fn remove(mut self, user_id: UserId) -> Changed<Self> {
        self.members -= 1;
        let event = pb::TeamMemberRemoved { team: Some((&self).into()), user_id: user_id.into() };
        let about = self.about();
        Changed::new(self, &event, about)
    }

    /// Changes with every change of name, description or colour.
    pub(crate) fn etag(&self) -> String {
        format!("\"{}\"", self.revision)
    }

    fn about(&self) -> About {
        About::object("team", self.id, &self.name).of(self.org_id)
    }
}

fn color(given: &str) -> String {
    if given.is_empty() { GREY.to_owned() } else { given.to_uppercase() }
}

/// By which names of teams are compared: their letters in lower case, runs of spaces as one.
pub(crate) fn name_key(name: &str) -> String {
    name.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_look_the_same_are_the_same() {
        assert_eq!(name_key("  Support  TEAM "), name_key("support team"));
        assert_ne!(name_key("support"), name_key("support-1"));
        assert_eq!((color(""), color("#aabbcc")), (GREY.to_owned(), "#AABBCC".to_owned()));
    }
}
