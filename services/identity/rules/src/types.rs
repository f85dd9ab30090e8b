//! Types that several concepts share: principals, project references, consistency tokens. Imports no other
//! module of the crate.

use chassis::{OrgId, ProjectId, TeamId, UserId};
use data_encoding::BASE64URL_NOPAD;
use uuid::Uuid;

/// Length of the organization's id, with which a decoded consistency token begins, in bytes.
const ORG_ID_BYTES: usize = 16;

/// Ids per event at most; longer lists are split over several events.
const EVENT_IDS_MAX: usize = 500;

/// The holder of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Principal {
    /// A member.
    User(UserId),
    /// A team.
    Team(TeamId),
}

impl Principal {
    /// Returns the id of the account or team.
    pub fn id(self) -> Uuid {
        match self {
            Self::User(id) => id.0,
            Self::Team(id) => id.0,
        }
    }
}

/// A project and the organization that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProjectRef {
    pub org_id: OrgId,
    pub project_id: ProjectId,
}

/// A version of an organization's access data. Clients pass it back to require decisions that are at least as
/// new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsistencyToken {
    pub org_id: OrgId,
    pub access_version: i64,
}

impl ConsistencyToken {
    /// Encodes the token as clients see it: base64url of id and version.
    pub fn encode(self) -> String {
        let version = self.access_version.to_be_bytes();
        BASE64URL_NOPAD.encode(&[self.org_id.0.as_bytes().as_slice(), &version].concat())
    }

    /// Decodes a token; `None` if it is malformed.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
        let (org_id, version) = bytes.split_at_checked(ORG_ID_BYTES)?;
        let org_id = OrgId(Uuid::from_slice(org_id).ok()?);
        Some(Self { org_id, access_version: i64::from_be_bytes(version.try_into().ok()?) })
    }
}

/// An enum that tables store as text.
pub trait StoredText: Copy + PartialEq + 'static {
    /// Every value, with its text.
    const TEXTS: &'static [(Self, &'static str)];

    /// Returns the text of the value.
    fn as_text(self) -> &'static str {
        let found = Self::TEXTS.iter().find(|(value, _)| *value == self);
        found.expect("TEXTS has every value").1
    }

    /// Returns the value with a text.
    fn parse_text(text: &str) -> Option<Self> {
        Self::TEXTS.iter().find(|(_, it)| *it == text).map(|(value, _)| *value)
    }
}

/// Splits a list of ids into batches, each small enough for one event.
pub fn event_batches<T>(
    ids: &[T],
    to_text: impl Fn(&T) -> String + Copy,
) -> impl Iterator<Item = Vec<String>> {
    ids.chunks(EVENT_IDS_MAX).map(move |batch| batch.iter().map(to_text).collect())
}

/// Returns the length of a list as the contract's `int32`; saturates.
pub fn count_i32<T>(list: &[T]) -> i32 {
    i32::try_from(list.len()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consistency_token_is_read_as_it_was_written() {
        let token = ConsistencyToken { org_id: OrgId(Uuid::from_u128(7)), access_version: 300 };
        assert_eq!(ConsistencyToken::parse(&token.encode()), Some(token));
        assert_eq!(ConsistencyToken::parse("AAAA"), None);
        assert_eq!(ConsistencyToken::parse("é"), None);
    }
}
