//! Freshness: the age that a snapshot may have for a decision.

use std::time::Duration;

use api::error::Reason;
use chassis::{Code, Error, OrgId, Result};

use crate::{snapshot::Snapshot, types::ConsistencyToken};

/// Longest time since a snapshot was known to be the newest, for a decision that may use a cached one (G-06).
const AGE_MAX: Duration = Duration::from_secs(1);

/// The age that a snapshot may have for a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// The newest version; it must include the version of the token, if there is one.
    Newest(Option<ConsistencyToken>),
    /// The version of the token or a newer one, which was the newest at most a second ago.
    AtLeast(ConsistencyToken),
    /// A version that was the newest at most this long ago, and at most a second ago.
    MaxAge(Duration),
}

impl Freshness {
    /// Requires the newest version, which must include the version of a token.
    pub fn newest(token: Option<&str>) -> Result<Self> {
        Ok(Self::Newest(token.map(parse_token).transpose()?))
    }

    /// Requires the version of a token or a newer one.
    pub fn at_least(token: &str) -> Result<Self> {
        Ok(Self::AtLeast(parse_token(token)?))
    }

    /// Returns true if a cached snapshot is fresh enough. `age` is the time since its version was known to be
    /// the newest.
    pub fn accepts(self, org_id: OrgId, version: i64, age: Duration) -> bool {
        match self {
            Self::Newest(_) => false,
            Self::AtLeast(token) => {
                age < AGE_MAX && (token.org_id != org_id || version >= token.access_version)
            }
            Self::MaxAge(limit) => age < limit.min(AGE_MAX),
        }
    }

    /// Fails if a snapshot is older than the version of the caller's token. Call it only for callers who
    /// may know that the organization exists: a forged token would reveal that to others.
    pub fn require_version(self, snapshot: &Snapshot) -> Result<()> {
        let (Self::Newest(Some(token)) | Self::AtLeast(token)) = self else { return Ok(()) };
        if token.org_id == snapshot.org_id && token.access_version > snapshot.version {
            return Err(token_ahead());
        }
        Ok(())
    }
}

fn parse_token(text: &str) -> Result<ConsistencyToken> {
    let invalid = || {
        let description = "must be a consistency token from an earlier response";
        Error::invalid("consistency_token", description)
    };
    ConsistencyToken::parse(text).ok_or_else(invalid)
}

fn token_ahead() -> Error {
    let message = "the consistency token is newer than this database, which lags or was restored from an \
                   older backup; retry, or omit the token";
    Error::Refused {
        code: Code::Unavailable,
        reason: Reason::ConsistencyTokenAhead,
        message: message.to_owned(),
        metadata: vec![],
    }
}
