//! Decisions about permissions, their freshness, their explanations, and the effects of simulated changes.

pub mod explain;
pub mod fact;
pub mod freshness;
mod remedy;
pub mod simulate;

use chassis::{Account, Result, access::Decision};

use self::freshness::Freshness;
use crate::{
    policy::Permission,
    snapshot::{AccessQuery, Snapshot, Subject, Verdict},
    types::ConsistencyToken,
};

/// Returns the permission with a code. Only for codes that the program itself names: an unknown one is an
/// internal error.
pub fn known_permission(code: &str) -> Result<Permission> {
    let permission = Permission::parse(code);
    Ok(permission.ok_or_else(|| anyhow::anyhow!("the permission {code} does not exist"))?)
}

/// Returns an account as the subject of a decision.
pub fn subject(account: &Account) -> Subject<'_> {
    Subject { user_id: account.user_id, key: account.key.as_ref() }
}

/// Decides a query on a snapshot; `None` stands for an unknown organization. Errors about the freshness are
/// returned only to callers who may know that the organization exists.
pub fn decide(
    snapshot: Option<&Snapshot>,
    subject: Subject<'_>,
    query: &AccessQuery,
    freshness: Freshness,
) -> Result<Decision> {
    let Some(snapshot) = snapshot else { return Ok(Decision::default()) };
    let decision = snapshot.verdict(subject, query).into_decision(Some(snapshot.token()));
    if decision.visible {
        freshness.require_version(snapshot)?;
    }
    Ok(decision)
}

impl Verdict {
    /// Returns the verdict as the decision that other services get. `token` is that of the snapshot, if the
    /// decision is returned to a client.
    pub fn into_decision(self, token: Option<ConsistencyToken>) -> Decision {
        let token = token.map(ConsistencyToken::encode).unwrap_or_default();
        match self {
            Self::Allowed => {
                Decision { allowed: true, visible: true, token, ..Decision::default() }
            }
            Self::Denied(reason) => {
                Decision { visible: true, reason, token, ..Decision::default() }
            }
            // Without the token: its version would reveal that the organization exists.
            Self::Hidden => Decision::default(),
        }
    }
}
