//! The life of an environment (2.3), as one table: which operation which state allows, and where it leads.

use chassis::Refusal;

use super::{PauseReason, State};
use crate::task::Kind;

/// What can be asked of an environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Deploy,
    Start,
    Stop,
    Restart,
    Pause,
    Resume,
    Sync,
    /// To get extra services, or to lose them.
    Provision,
    Rollback,
    /// To be copied.
    CloneFrom,
    /// To be overwritten by a copy.
    CloneOver,
    /// To hand its commit to production.
    PromoteFrom,
    /// To get the commit of another environment.
    PromoteTo,
    Destroy,
    Update,
    /// To be paused by the platform.
    Suspend,
}

/// The state does not allow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the environment is {}, which does not allow this; it allows: {}", .0.word(), allowed(*.0,
    *.1).join(", "))]
pub(crate) struct InvalidState(pub(crate) State, pub(crate) Option<PauseReason>);

impl Refusal for InvalidState {
    fn reason(&self) -> api::error::Reason {
        api::error::Reason::InvalidState
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        let allowed = allowed(self.0, self.1).join(",");
        vec![("state", self.0.word().to_owned()), ("allowed", allowed)]
    }
}

impl Operation {
    /// Every operation, in the order in which people are told of them.
    pub(crate) const ALL: [Self; 16] = [
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

    fn word(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Sync => "sync",
            Self::Provision => "get extra services",
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

    /// The operation of a task.
    pub(crate) fn of(kind: Kind) -> Self {
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
    /// The state while the operation goes on, if this state allows it (PE-27, PE-29, PE-30, PE-40).
    pub(crate) fn admit(
        self,
        paused: Option<PauseReason>,
        operation: Operation,
    ) -> Result<Self, InvalidState> {
        use Operation as O;
        use State as S;
        let by_a_person = paused == Some(PauseReason::User);
        let next = match (operation, self) {
            (O::Deploy | O::PromoteTo, S::Pending | S::Running | S::Stopped | S::Error)
            // From ERROR, too: an earlier good version is the way out.
            | (O::Rollback, S::Running | S::Error) => S::Deploying,
            (O::Update, S::Destroying | S::Deleted) => return Err(InvalidState(self, paused)),
            // These stand until their task has ended.
            (O::Update, _)
            | (O::Start, S::Stopped)
            | (O::Stop | O::Restart | O::Pause | O::PromoteFrom, S::Running)
            | (O::Sync | O::Provision, S::Running | S::Stopped | S::Paused | S::Error) => self,
            (O::Stop | O::Resume, S::Paused) if by_a_person => self,
            (O::CloneFrom, S::Running | S::Stopped)
            | (O::CloneOver, S::Running | S::Stopped | S::Error) => S::Cloning,
            (O::Destroy, S::Pending | S::Running | S::Stopped | S::Paused | S::Error) => {
                S::Destroying
            }
            (O::Suspend, S::Running) => S::Paused,
            (O::Suspend, S::Paused) if by_a_person => S::Paused,
            _ => return Err(InvalidState(self, paused)),
        };
        Ok(next)
    }
}

/// What a state allows, in words.
fn allowed(state: State, paused: Option<PauseReason>) -> Vec<&'static str> {
    // What the suite does by itself nobody asks for.
    let own = [Operation::Suspend, Operation::Provision];
    let all = Operation::ALL.into_iter().filter(|it| !own.contains(it));
    let words: Vec<_> =
        all.filter(|it| state.admit(paused, *it).is_ok()).map(Operation::word).collect();
    match state {
        State::Deploying => [vec!["cancel"], words].concat(),
        _ if words.is_empty() => vec!["nothing"],
        _ => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of each state: what it allows, and where that leads. Whatever is not named is refused.
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
        for (state, paused, rows) in TABLE {
            for operation in Operation::ALL {
                let expected = rows.iter().find(|it| it.0 == operation).map(|it| it.1);
                let got = state.admit(*paused, operation);
                assert_eq!(got.ok(), expected, "{operation:?} in {state:?} ({paused:?})");
            }
        }
        assert_eq!(TABLE.len(), 11, "nine states, one of them for three reasons");
    }

    /// PE-29.
    #[test]
    fn a_refusal_says_what_the_state_allows() {
        let refused = State::Stopped.admit(None, Operation::Stop).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the environment is STOPPED, which does not allow this; it allows: deploy, start, sync, clone, \
             be overwritten by a clone, be promoted to, destroy, update"
        );
        assert_eq!(refused.metadata()[0], ("state", "STOPPED".to_owned()));
        let refused = State::Destroying.admit(None, Operation::Update).unwrap_err();
        assert_eq!(refused.metadata()[1], ("allowed", "nothing".to_owned()));
    }
}
