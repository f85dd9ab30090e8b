//! Conversion of the use of a plan to the contract.

use api::{error::Reason, identity as pb};

use super::commands::Usage;

impl From<Usage> for pb::Usage {
    fn from(usage: Usage) -> Self {
        let is_reached = usage.limit.is_some_and(|it| usage.used >= it);
        let reason = limit_reason(usage.key).filter(|_| is_reached);
        let remedies = reason.map(api::remedies).unwrap_or_default();
        Self {
            key: usage.key.to_owned(),
            used: usage.used,
            limit: usage.limit,
            remedies: remedies.iter().map(|it| (*it).to_owned()).collect(),
        }
    }
}

/// Reason of the refusal of another object once a limit is reached.
fn limit_reason(key: &str) -> Option<Reason> {
    match key {
        "members" => Some(Reason::MemberLimitReached),
        "projects" => Some(Reason::ProjectLimitReached),
        "environments" => Some(Reason::EnvironmentLimitReached),
        "api_keys" => Some(Reason::PlanFeatureRequired),
        _ => None,
    }
}
