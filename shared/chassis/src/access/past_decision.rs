//! Decisions that changes and streams rest on, and their repetition when they are too old.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{AccessCheck, Authority};
use crate::{Error, OrgId, ProjectId, Result, call::Context, error::overloaded};

/// A positive decision that a change or a stream rests on.
#[derive(Clone)]
pub(crate) struct PastDecision {
    pub(super) authority: Arc<dyn Authority>,
    pub(super) decided_at: Instant,
    pub(super) permission: String,
    pub(super) org_id: OrgId,
    pub(super) project_id: Option<ProjectId>,
}

impl PastDecision {
    fn is_outdated(&self) -> bool {
        self.decided_at.elapsed() > DECISION_AGE_MAX
    }

    pub(super) fn access_check(&self, write: bool) -> AccessCheck<'_> {
        let Self { permission, org_id, project_id, .. } = self;
        AccessCheck { permission, org_id: *org_id, project_id: *project_id, write }
    }
}

impl std::fmt::Debug for PastDecision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PastDecision").field("permission", &self.permission).finish_non_exhaustive()
    }
}

/// Longest age of a decision when the change that rests on it commits.
pub(crate) const DECISION_AGE_MAX: Duration = Duration::from_secs(1);

/// Repeats the decisions that are too old, before the transaction of a change begins: a caller who lost the
/// permission while the call waited, or while this process was suspended, changes nothing (P-03).
pub(crate) async fn refresh_decisions(context: &Context) -> Result<()> {
    let outdated: Vec<PastDecision> = {
        let mut decisions = context.change_decisions.lock().unwrap_or_else(PoisonError::into_inner);
        decisions.extract_if(.., |it| it.is_outdated()).collect()
    };
    for mut decision in outdated {
        decision.decided_at = Instant::now();
        let check = decision.access_check(true);
        decision.authority.decide(context, &check).await?.check(&check)?;
        context.change_decisions.lock().unwrap_or_else(PoisonError::into_inner).push(decision);
    }
    Ok(())
}

/// Fails if a decision is too old for a change that rests on it to commit, and requests that the server stack
/// repeats the call: during its transaction no remote call can be made.
pub(crate) fn require_current_decisions(context: &Context) -> Result<()> {
    let decisions = context.change_decisions.lock().unwrap_or_else(PoisonError::into_inner);
    if decisions.iter().any(PastDecision::is_outdated) {
        // The request for a repetition.
        context.is_outdated.store(true, Ordering::Relaxed);
        let message = "the change took longer than its authorization is valid, and was not applied; \
                       retry with exponential back-off";
        return Err(Error::Remote(Box::new(overloaded(message))));
    }
    Ok(())
}
