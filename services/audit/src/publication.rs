//! Publication of signed heads. With a policy, a head is published when enough witnesses have cosigned the
//! checkpoint of the suite tree that covers it: the suite tree commits to the checkpoints of all other trees,
//! so witnesses cosign that one tree only, and learn nothing about organizations. Until then, the last
//! published heads stay in effect.

pub(crate) mod store;

use std::path::Path;

use anyhow::{Context, ensure};
use time::OffsetDateTime;
use verifier::witness::WitnessPolicy;

/// A signed checkpoint of the suite tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SuiteCheckpoint {
    pub(crate) size: u64,
    /// The checkpoint, as a signed note.
    pub(crate) note: String,
}

/// A checkpoint of the suite tree with the cosignatures that the policy requires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CosignedCheckpoint {
    pub(crate) size: u64,
    /// The checkpoint with its cosignatures, as a signed note.
    pub(crate) note: String,
    pub(crate) cosigned_at: OffsetDateTime,
}

/// The heads that are published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Publication {
    /// There is no policy: every signed head.
    Signed,
    /// The heads that this checkpoint covers; none before the first one.
    Cosigned(Option<CosignedCheckpoint>),
}

impl Publication {
    /// Leaves of the suite tree that are published; `None` without a limit.
    pub(crate) fn suite_size(&self) -> Option<u64> {
        match self {
            Self::Signed => None,
            Self::Cosigned(newest) => Some(newest.as_ref().map_or(0, |it| it.size)),
        }
    }
}

/// Reads the file of a policy. Each witness must have a URL, with https except on the loopback interface.
pub(crate) fn read_policy(path: &Path) -> anyhow::Result<WitnessPolicy> {
    let file = || format!("--audit-witnesses: {}", path.display());
    let text = std::fs::read_to_string(path).with_context(file)?;
    let policy = WitnessPolicy::parse(&text).with_context(file)?;
    // A note without cosignatures.
    ensure!(!policy.is_met(""), "{}: the quorum must require a witness", file());
    for witness in policy.witnesses() {
        let name = witness.key.name();
        let url = witness.url.as_deref().unwrap_or_default();
        let parsed = reqwest::Url::parse(url);
        let parsed = parsed.with_context(|| format!("the witness {name} has no valid URL"));
        let parsed = parsed.with_context(file)?;
        let is_loopback = matches!(parsed.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let is_secure = parsed.scheme() == "https" || (parsed.scheme() == "http" && is_loopback);
        ensure!(is_secure, "{}: the URL {url} must use https", file());
    }
    Ok(policy)
}
