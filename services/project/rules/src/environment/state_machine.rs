//! State machine of environments: operations that each state allows, and the state that follows.

use chassis::Refusal;

use super::{PauseReason, State};
use crate::task::Kind;

/// Operation on an environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Deploy,
    Start,
    Stop,
    Restart,
    Pause,
    Resume,
    Sync,
    /// Provisions or removes add-ons.
    Provision,
    Rollback,
    /// This environment is the source of a clone.
    CloneFrom,
    /// This environment is overwritten by a clone.
    CloneOver,
    /// The commit of this environment is deployed to production.
    PromoteFrom,
    /// The commit of another environment is deployed to this one.
    PromoteTo,
    Destroy,
    /// Updates fields.
    Update,
    /// The platform pauses the environment.
    Suspend,
}

/// The state of the environment does not allow the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the environment is {}, which does not allow this; it allows: {}",
    .state.as_str(),
    allowed_operations(*.state, *.pause_reason).join(", ")
)]
pub struct InvalidState {
    state: State,
    pause_reason: Option<PauseReason>,
}

impl Refusal for InvalidState {
    fn reason(&self) -> api::error::Reason {
        api::error::Reason::InvalidState
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        let allowed = allowed_operations(self.state, self.pause_reason).join(",");
        vec![("state", self.state.as_str().to_owned()), ("allowed", allowed)]
    }
}

impl Operation {
    /// Every operation, in the order in which messages list them.
    pub const ALL: [Self; 16] = [
        Self::Deploy,
        Self::Start,
        Self::Stop,
        Self::Restart,
        Self::Pause,
        Self::Resume,
        Self::Sync,
        Self::Provision,
        Self::Rollback,
        Self::CloneFrom,
        Self::CloneOver,
        Self::PromoteFrom,
        Self::PromoteTo,
        Self::Destroy,
        Self::Update,
        Self::Suspend,
    ];

    /// Name of the operation in messages.
    fn as_str(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Sync => "sync",
            Self::Provision => "provision add-ons",
            Self::Rollback => "rollback",
            Self::CloneFrom => "clone",
            Self::CloneOver => "be overwritten by a clone",
            Self::PromoteFrom => "promote",
            Self::PromoteTo => "be promoted to",
            Self::Destroy => "destroy",
            Self::Update => "update",
            Self::Suspend => "suspend",
        }
    }

    /// Operation that a task performs on its environment.
    pub fn of_task(kind: Kind) -> Self {
        match kind {
            Kind::Deploy => Self::Deploy,
            Kind::Start => Self::Start,
            Kind::Stop => Self::Stop,
            Kind::Restart => Self::Restart,
            Kind::Pause => Self::Pause,
            Kind::Resume => Self::Resume,
            Kind::Sync => Self::Sync,
            Kind::Rollback => Self::Rollback,
            Kind::Clone => Self::CloneOver,
            Kind::Promote => Self::PromoteTo,
            Kind::Destroy => Self::Destroy,
            Kind::Provision => Self::Provision,
        }
    }
}

impl State {
    /// Returns the state during an operation, or refuses an operation that this state does not allow (PE-27,
    /// PE-29, PE-30, PE-40). An operation that does not change the state at once returns the state itself.
    pub fn transition(
        self,
        pause_reason: Option<PauseReason>,
        operation: Operation,
    ) -> Result<Self, InvalidState> {
        use Operation as O;
        use State as S;
        let is_paused_by_user = pause_reason == Some(PauseReason::User);
        let refused = InvalidState { state: self, pause_reason };
        let next = match (operation, self) {
            (O::Deploy | O::PromoteTo, S::Pending | S::Running | S::Stopped | S::Error)
            // A rollback is allowed in ERROR, because it repairs a failed deployment.
            | (O::Rollback, S::Running | S::Error) => S::Deploying,
            (O::Update, S::Destroying | S::Deleted) => return Err(refused),
            // The state changes when the task ends, not when it is enqueued.
            (O::Update, _)
            | (O::Start, S::Stopped)
            | (O::Stop | O::Restart | O::Pause | O::PromoteFrom, S::Running)
            | (O::Sync | O::Provision, S::Running | S::Stopped | S::Paused | S::Error) => self,
            (O::Stop | O::Resume, S::Paused) if is_paused_by_user => self,
            (O::CloneFrom, S::Running | S::Stopped)
            | (O::CloneOver, S::Running | S::Stopped | S::Error) => S::Cloning,
            (O::Destroy, S::Pending | S::Running | S::Stopped | S::Paused | S::Error) => {
                S::Destroying
            }
            (O::Suspend, S::Running) => S::Paused,
            (O::Suspend, S::Paused) if is_paused_by_user => S::Paused,
            _ => return Err(refused),
        };
        Ok(next)
    }
}

/// Names of the operations that a person can request in a state.
fn allowed_operations(state: State, pause_reason: Option<PauseReason>) -> Vec<&'static str> {
    let internal = [Operation::Suspend, Operation::Provision];
    let names: Vec<_> = Operation::ALL
        .into_iter()
        .filter(|it| !internal.contains(it) && state.transition(pause_reason, *it).is_ok())
        .map(Operation::as_str)
        .collect();
    match state {
        State::Deploying => [vec!["cancel"], names].concat(),
        _ if names.is_empty() => vec!["nothing"],
        _ => names,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A state, and the allowed operations with the states that follow. Operations that are not listed are
    /// refused.
    type Row = (State, Option<PauseReason>, &'static [(Operation, State)]);
    const TABLE: &[Row] = {
        use Operation as O;
        use State as S;
        &[
            (
                S::Pending,
                None,
                &[
                    (O::Deploy, S::Deploying),
                    (O::PromoteTo, S::Deploying),
                    (O::Destroy, S::Destroying),
                    (O::Update, S::Pending),
                ],
            ),
            (S::Deploying, None, &[(O::Update, S::Deploying)]),
            (
                S::Running,
                None,
                &[
                    (O::Deploy, S::Deploying),
                    (O::Stop, S::Running),
                    (O::Restart, S::Running),
                    (O::Pause, S::Running),
                    (O::Sync, S::Running),
                    (O::Provision, S::Running),
                    (O::Rollback, S::Deploying),
                    (O::CloneFrom, S::Cloning),
                    (O::CloneOver, S::Cloning),
                    (O::PromoteFrom, S::Running),
                    (O::PromoteTo, S::Deploying),
                    (O::Destroy, S::Destroying),
                    (O::Update, S::Running),
                    (O::Suspend, S::Paused),
                ],
            ),
            (
                S::Stopped,
                None,
                &[
                    (O::Deploy, S::Deploying),
                    (O::Start, S::Stopped),
                    (O::Sync, S::Stopped),
                    (O::Provision, S::Stopped),
                    (O::CloneFrom, S::Cloning),
                    (O::CloneOver, S::Cloning),
                    (O::PromoteTo, S::Deploying),
                    (O::Destroy, S::Destroying),
                    (O::Update, S::Stopped),
                ],
            ),
            (
                S::Paused,
                Some(PauseReason::User),
                &[
                    (O::Stop, S::Paused),
                    (O::Resume, S::Paused),
                    (O::Sync, S::Paused),
                    (O::Provision, S::Paused),
                    (O::Destroy, S::Destroying),
                    (O::Update, S::Paused),
                    (O::Suspend, S::Paused),
                ],
            ),
            (
                S::Paused,
                Some(PauseReason::Quota),
                &[
                    (O::Sync, S::Paused),
                    (O::Provision, S::Paused),
                    (O::Destroy, S::Destroying),
                    (O::Update, S::Paused),
                ],
            ),
            (
                S::Paused,
                Some(PauseReason::Billing),
                &[
                    (O::Sync, S::Paused),
                    (O::Provision, S::Paused),
                    (O::Destroy, S::Destroying),
                    (O::Update, S::Paused),
                ],
            ),
            (S::Cloning, None, &[(O::Update, S::Cloning)]),
            (
                S::Error,
                None,
                &[
                    (O::Deploy, S::Deploying),
                    (O::Sync, S::Error),
                    (O::Provision, S::Error),
                    (O::Rollback, S::Deploying),
                    (O::CloneOver, S::Cloning),
                    (O::PromoteTo, S::Deploying),
                    (O::Destroy, S::Destroying),
                    (O::Update, S::Error),
                ],
            ),
            (S::Destroying, None, &[]),
            (S::Deleted, None, &[]),
        ]
    };

    /// PE-27, PE-29, PE-30, PE-40, PE-22: every pair of state and operation.
    #[test]
    fn every_state_allows_what_the_table_says_and_nothing_else() {
        for (state, pause_reason, rows) in TABLE {
            for operation in Operation::ALL {
                let expected = rows.iter().find(|it| it.0 == operation).map(|it| it.1);
                let next = state.transition(*pause_reason, operation);
                assert_eq!(next.ok(), expected, "{operation:?} in {state:?} ({pause_reason:?})");
            }
        }
        assert_eq!(TABLE.len(), 11, "nine states; PAUSED has three rows, one for each reason");
    }

    /// PE-29.
    #[test]
    fn a_refusal_lists_the_allowed_operations() {
        let refused = State::Stopped.transition(None, Operation::Stop).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the environment is STOPPED, which does not allow this; it allows: deploy, start, sync, clone, \
             be overwritten by a clone, be promoted to, destroy, update"
        );
        assert_eq!(refused.metadata()[0], ("state", "STOPPED".to_owned()));
        let refused = State::Destroying.transition(None, Operation::Update).unwrap_err();
        assert_eq!(refused.metadata()[1], ("allowed", "nothing".to_owned()));
    }
}
