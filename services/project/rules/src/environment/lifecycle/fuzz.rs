//! Fuzz target: sequences of operations of people, the platform and servers on an environment.

use bolero::{TypeGenerator, check};

use super::{
    tests::{NOW, ORIGIN, environment, report},
    *,
};

/// One operation. The numbers are indices into [`KINDS`] and [`OBSERVED`], modulo their lengths.
#[derive(Clone, Copy, Debug, TypeGenerator)]
enum Step {
    EnqueueTask { kind: u8 },
    Complete { observed: Option<u8>, without_url: bool },
    Fail,
    Cancel,
    Suspend { billing: bool },
    LiftSuspension,
    CorrectState { observed: u8 },
    EnqueueStop,
}

const KINDS: [Kind; 13] = [
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
    Kind::UpdateModules,
];
const OBSERVED: [Observed; 4] =
    [Observed::Running, Observed::Stopped, Observed::Failed, Observed::Paused];

fn pick<T: Copy>(values: &[T], index: u8) -> T {
    values[usize::from(index) % values.len()]
}

/// An environment and its active task.
struct Model {
    environment: Environment,
    task: Option<Task>,
}

impl Model {
    fn finish_task(&mut self, outcome: Outcome) {
        let Some(mut task) = self.task.take() else { return };
        task.finish(&outcome, NOW);
        let finished = self.environment.clone().finish_task(task, outcome, NOW);
        self.environment = finished.state().0.clone();
    }

    fn enqueue(&mut self, enqueued: &Changed<(Environment, Task)>) {
        let (environment, task) = enqueued.state().clone();
        self.environment = environment;
        self.task = Some(task);
    }

    fn apply(&mut self, step: Step) {
        let environment = self.environment.clone();
        match step {
            Step::EnqueueTask { kind } => {
                let spec = TaskSpec::new(pick(&KINDS, kind));
                let enqueued = environment.enqueue_task(spec, ORIGIN, self.task.as_ref(), NOW);
                if let Ok(enqueued) = enqueued {
                    assert!(self.task.is_none(), "one task at a time");
                    self.enqueue(&enqueued);
                }
            }
            Step::Complete { observed, without_url } => {
                let url = if without_url { "" } else { "http://new" }.to_owned();
                let observed = observed.map(|it| pick(&OBSERVED, it));
                let result = TaskResult { commit: "new".to_owned(), url, observed };
                self.finish_task(Outcome::Completed(result));
            }
            Step::Fail => self.finish_task(Outcome::Failed { error: "no".to_owned() }),
            Step::Cancel => self.finish_task(Outcome::Cancelled),
            Step::Suspend { billing } => {
                let reason = if billing { PauseReason::Billing } else { PauseReason::Quota };
                if let Some(suspended) = environment.suspend(reason, self.task.as_ref(), NOW) {
                    assert!(self.task.is_none(), "no suspension while a task is active");
                    self.environment = suspended.state().clone();
                }
            }
            Step::LiftSuspension
                if environment.pause_reason.is_some_and(|it| it != PauseReason::User) =>
            {
                self.environment = environment.lift_suspension(NOW).state().clone();
            }
            Step::CorrectState { observed } if self.task.is_none() => {
                let observed = pick(&OBSERVED, observed);
                let report = report(observed, "ended");
                if let Some(corrected) = environment.correct_state(&report, NOW) {
                    self.environment = corrected.state().clone();
                }
            }
            Step::EnqueueStop if self.task.is_none() => {
                if let Some(enqueued) = environment.enqueue_stop(ORIGIN.user_id, NOW) {
                    self.enqueue(&enqueued);
                }
            }
            Step::LiftSuspension | Step::CorrectState { .. } | Step::EnqueueStop => {}
        }
    }

    /// Checks the invariants after a step.
    fn check(&self, before: State) {
        let it = &self.environment;
        assert_eq!(it.pause_reason.is_some(), it.state == State::Paused, "{it:?}");
        let is_transient =
            matches!(it.state, State::Deploying | State::Cloning | State::Destroying);
        assert!(!is_transient || self.task.is_some(), "{it:?} has no active task");
        if it.state == State::Deleted {
            assert!(self.task.is_none() && it.url.is_empty(), "{it:?}");
        }
        assert!(before != State::Deleted || it.state == State::Deleted, "{it:?} was deleted");
        assert!(it.state != State::Error || !it.last_error.is_empty(), "{it:?} has no error");
        let is_stable =
            !matches!(it.stable_state, State::Deploying | State::Destroying | State::Deleted);
        assert!(self.task.is_none() || is_stable, "{it:?} would restore a transient state");
    }
}

#[test]
fn every_sequence_of_operations_keeps_the_invariants() {
    let initial_state = |it: u8| pick(&[State::Pending, State::Running, State::Stopped], it);
    check!().with_type::<(u8, Vec<Step>)>().for_each(|(state, steps)| {
        let mut model = Model { environment: environment(initial_state(*state)), task: None };
        for step in steps {
            let before = model.environment.state;
            model.apply(*step);
            model.check(before);
        }
    });
}
