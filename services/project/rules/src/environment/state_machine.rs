//! State machine of environments: operations that each state allows, and the state that follows.

use chassis::Refusal;

use super::{PauseReason, State};
use crate::task::{Kind, Observed};

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
    /// Updates modules of the deployed version.
    UpdateModules,
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

/// Facts about an environment on which its allowed operations depend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    pub state: State,
    pub pause_reason: Option<PauseReason>,
    /// State of the program, as last seen. Decides in ERROR, where the state only says that the last task
    /// failed.
    pub observed: Option<Observed>,
}

/// The condition of the environment does not allow the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the environment is {}, which does not allow this; it allows: {}",
    .0.describe(),
    .0.allowed_operations().join(", ")
)]
pub struct InvalidState(Condition);

impl Refusal for InvalidState {
    fn reason(&self) -> api::error::Reason {
        api::error::Reason::InvalidState
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        let allowed = self.0.allowed_operations().join(",");
        vec![("state", self.0.state.as_str().to_owned()), ("allowed", allowed)]
    }
}

impl Operation {
    /// Every operation, in the order in which messages list them.
    pub const ALL: [Self; 17] = [
        Self::Deploy,
        Self::Start,
        Self::Stop,
        Self::Restart,
        Self::Pause,
        Self::Resume,
        Self::Sync,
        Self::Provision,
        Self::UpdateModules,
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
            Self::UpdateModules => "update modules",
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
            Kind::UpdateModules => Self::UpdateModules,
        }
    }
}

impl Condition {
    /// Returns the state during an operation, or refuses an operation that this condition does not allow
    /// (PE-27, PE-29, PE-30, PE-40). An operation that does not change the state at once returns the state
    /// itself.
    pub fn transition(self, operation: Operation) -> Result<State, InvalidState> {
        use Operation as O;
        use State as S;
        let is_paused_by_user = self.pause_reason == Some(PauseReason::User);
        let refused = InvalidState(self);
        let next = match (operation, self.state) {
            (O::Deploy | O::PromoteTo, S::Pending | S::Running | S::Stopped | S::Error)
            // A rollback is allowed in ERROR, because it repairs a failed deployment.
            | (O::Rollback, S::Running | S::Error) => S::Deploying,
            (O::Update, S::Destroying | S::Deleted) => return Err(refused),
            // The state changes when the task ends, not when it is enqueued.
            (O::Update, _)
            | (O::Start, S::Stopped)
            | (O::Stop | O::Restart | O::Pause | O::UpdateModules | O::PromoteFrom, S::Running)
            | (O::Sync | O::Provision, S::Running | S::Stopped | S::Paused | S::Error) => self.state,
            (O::Stop | O::Resume, S::Paused) if is_paused_by_user => self.state,
            (O::CloneFrom, S::Running | S::Stopped)
            | (O::CloneOver, S::Running | S::Stopped | S::Error) => S::Cloning,
            (O::Destroy, S::Pending | S::Running | S::Stopped | S::Paused | S::Error) => {
                S::Destroying
            }
            (O::Suspend, S::Running) => S::Paused,
            (O::Suspend, S::Paused) if is_paused_by_user => S::Paused,
            (_, S::Error) if self.program_allows(operation) => match operation {
                O::CloneFrom => S::Cloning,
                O::Suspend => S::Paused,
                _ => S::Error,
            },
            _ => return Err(refused),
        };
        Ok(next)
    }

    /// True if what runs allows an operation in ERROR, in addition to those that the state allows.
    fn program_allows(self, operation: Operation) -> bool {
        use Operation as O;
        match self.observed {
            Some(Observed::Running) => matches!(
                operation,
                O::Stop
                    | O::Restart
                    | O::Pause
                    | O::UpdateModules
                    | O::Suspend
                    | O::CloneFrom
                    | O::PromoteFrom
            ),
            Some(Observed::Stopped) => matches!(operation, O::Start | O::CloneFrom),
            Some(Observed::Failed) => matches!(operation, O::Start | O::Stop | O::Restart),
            Some(Observed::Paused) => matches!(operation, O::Stop | O::Resume),
            None => false,
        }
    }

    /// The state in messages, in ERROR with what runs.
    fn describe(self) -> String {
        let state = self.state.as_str();
        let program = match self.observed.filter(|_| self.state == State::Error) {
            Some(Observed::Running) => "a version runs",
            Some(Observed::Stopped) => "no version runs",
            Some(Observed::Failed) => "its program has ended",
            Some(Observed::Paused) => "its program is frozen",
            None => return state.to_owned(),
        };
        format!("{state} ({program})")
    }

    /// Names of the operations that a person can request.
    fn allowed_operations(self) -> Vec<&'static str> {
        let internal = [Operation::Suspend, Operation::Provision];
        let names: Vec<_> = Operation::ALL
            .into_iter()
            .filter(|it| !internal.contains(it) && self.transition(*it).is_ok())
            .map(Operation::as_str)
            .collect();
        match self.state {
            State::Deploying => [vec!["cancel"], names].concat(),
            _ if names.is_empty() => vec!["nothing"],
            _ => names,
        }
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
                    (O::UpdateModules, S::Running),
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
                // The observed program decides only in ERROR.
                let observed = Some(Observed::Running).filter(|_| *state != State::Error);
                let condition = Condition { state: *state, pause_reason: *pause_reason, observed };
                let next = condition.transition(operation);
                assert_eq!(next.ok(), expected, "{operation:?} in {condition:?}");
            }
        }
        assert_eq!(TABLE.len(), 11, "nine states; PAUSED has three rows, one for each reason");
    }

    /// PE-14, PE-29, PE-40: in ERROR the operations depend on what runs.
    #[test]
    fn in_error_what_runs_decides() {
        use Operation as O;
        let rows: &[(Option<Observed>, &[O])] = &[
            (None, &[]),
            (
                Some(Observed::Running),
                &[
                    O::Stop,
                    O::Restart,
                    O::Pause,
                    O::UpdateModules,
                    O::CloneFrom,
                    O::PromoteFrom,
                    O::Suspend,
                ],
            ),
            (Some(Observed::Stopped), &[O::Start, O::CloneFrom]),
            (Some(Observed::Failed), &[O::Start, O::Stop, O::Restart]),
            (Some(Observed::Paused), &[O::Stop, O::Resume]),
        ];
        let condition = |observed| Condition { state: State::Error, pause_reason: None, observed };
        let allowed = |observed: Option<Observed>| {
            let all = Operation::ALL.into_iter();
            all.filter(move |it| condition(observed).transition(*it).is_ok())
        };
        for (observed, expected) in rows {
            let more = allowed(*observed).filter(|it| !allowed(None).any(|other| other == *it));
            assert_eq!(&more.collect::<Vec<_>>(), expected, "{observed:?}");
        }
        let refused = condition(Some(Observed::Running)).transition(O::Start).unwrap_err();
        assert!(refused.to_string().starts_with("the environment is ERROR (a version runs)"));
    }

    /// PE-29.
    #[test]
    fn a_refusal_lists_the_allowed_operations() {
        let condition = |state| Condition { state, pause_reason: None, observed: None };
        let refused = condition(State::Stopped).transition(Operation::Stop).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the environment is STOPPED, which does not allow this; it allows: deploy, start, sync, clone, \
             be overwritten by a clone, be promoted to, destroy, update"
        );
        assert_eq!(refused.metadata()[0], ("state", "STOPPED".to_owned()));
        let refused = condition(State::Destroying).transition(Operation::Update).unwrap_err();
        assert_eq!(refused.metadata()[1], ("allowed", "nothing".to_owned()));
    }
}
