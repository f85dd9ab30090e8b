//! Fuzz target: any sequence of what people, the platform and servers do to an environment.

use bolero::{TypeGenerator, check};

use super::{
    tests::{ANN, NOW, environment},
    *,
};

/// One step of a history; numbers choose among kinds of tasks and findings.
#[derive(Clone, Copy, Debug, TypeGenerator)]
enum Step {
    Begin { kind: u8 },
    Complete { observed: Option<u8>, without_url: bool },
    Fail,
    Cancel,
    Suspend { billing: bool },
    Lift,
    Correct { observed: u8 },
    Shut,
}

const KINDS: [Kind; 12] = [
    Kind::Deploy,
    Kind::Start,
    Kind::Stop,
    Kind::Restart,
    Kind::Pause,
    Kind::Resume,
    Kind::Sync,
    Kind::Rollback,
    Kind::Clone,
    Kind::Promote,
    Kind::Destroy,
    Kind::Provision,
];
const OBSERVED: [Observed; 4] =
    [Observed::Running, Observed::Stopped, Observed::Failed, Observed::Paused];

fn pick<T: Copy>(from: &[T], choice: u8) -> T {
    from[usize::from(choice) % from.len()]
}

/// An environment with the task that goes on in it.
struct World {
    environment: Environment,
    task: Option<Task>,
}

impl World {
    fn end(&mut self, outcome: Outcome) {
        let Some(mut task) = self.task.take() else { return };
        task.end(&outcome, NOW);
        let ended = self.environment.clone().finish(task, outcome, NOW);
        self.environment = ended.state().0.clone();
    }

    fn take(&mut self, step: Step) {
        let it = self.environment.clone();
        match step {
            Step::Begin { kind } => {
                let order = Order::plain(pick(&KINDS, kind));
                if let Ok(begun) = it.begin(order, ANN, self.task.as_ref(), NOW) {
                    assert!(self.task.is_none(), "one task at a time");
                    let (environment, task) = begun.state().clone();
                    (self.environment, self.task) = (environment, Some(task));
                }
            }
            Step::Complete { observed, without_url } => {
                let url = if without_url { "" } else { "http://new" }.to_owned();
                let observed = observed.map(|it| pick(&OBSERVED, it));
                self.end(Outcome::Completed { commit: "new".to_owned(), url, observed });
            }
            Step::Fail => self.end(Outcome::Failed { error: "no".to_owned() }),
            Step::Cancel => self.end(Outcome::Cancelled),
            Step::Suspend { billing } => {
                let reason = if billing { PauseReason::Billing } else { PauseReason::Quota };
                if let Some(paused) = it.suspend(reason, self.task.as_ref(), NOW) {
                    assert!(self.task.is_none(), "nothing is suspended while a task goes on");
                    self.environment = paused.state().clone();
                }
            }
            Step::Lift if it.pause_reason.is_some_and(|it| it != PauseReason::User) => {
                self.environment = it.lift(NOW).state().clone();
            }
            Step::Correct { observed } if self.task.is_none() => {
                if let Some(corrected) = it.correct(pick(&OBSERVED, observed), "ended", NOW) {
                    self.environment = corrected.state().clone();
                }
            }
            Step::Shut if self.task.is_none() => {
                if let Some(shut) = it.shut(UserId(uuid::Uuid::nil()), NOW) {
                    let (environment, task) = shut.state().clone();
                    (self.environment, self.task) = (environment, Some(task));
                }
            }
            Step::Lift | Step::Correct { .. } | Step::Shut => {}
        }
    }

    /// What holds after every step.
    fn check(&self, before: State) {
        let it = &self.environment;
        assert_eq!(it.pause_reason.is_some(), it.state == State::Paused, "{it:?}");
        let transient = matches!(it.state, State::Deploying | State::Cloning | State::Destroying);
        assert!(!transient || self.task.is_some(), "{it:?} waits for a task that is not there");
        if it.state == State::Deleted {
            assert!(self.task.is_none() && it.url.is_empty(), "{it:?}");
        }
        assert!(before != State::Deleted || it.state == State::Deleted, "{it:?} came back");
        assert!(it.state != State::Error || !it.last_error.is_empty(), "{it:?} has no reason");
        assert!(
            self.task.is_none()
                || !matches!(
                    it.stable_state,
                    State::Deploying | State::Destroying | State::Deleted
                ),
            "{it:?} goes back to a state that ends by itself"
        );
    }
}

#[test]
fn no_history_leads_an_environment_astray() {
    let first = |it: u8| pick(&[State::Pending, State::Running, State::Stopped], it);
    check!().with_type::<(u8, Vec<Step>)>().for_each(|(state, steps)| {
        let mut world = World { environment: environment(first(*state)), task: None };
        for step in steps {
            let before = world.environment.state;
            world.take(*step);
            world.check(before);
        }
    });
}
