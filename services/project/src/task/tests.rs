//! How tasks go, and end.

use super::{
    lease::{ATTEMPTS_MAX, LEASE, LeaseLost, Leased, Progress},
    *,
};

fn queued(kind: Kind) -> Task {
    Task {
        id: TaskId(Uuid::nil()),
        org_id: OrgId(Uuid::nil()),
        project_id: ProjectId(Uuid::nil()),
        environment_id: EnvironmentId(Uuid::nil()),
        kind,
        state: State::Queued,
        progress_percent: 0,
        current_step: String::new(),
        steps_completed: 0,
        total_steps: 0,
        error_message: String::new(),
        triggered_by: UserId(Uuid::nil()),
        cause: Cause::User,
        server_id: None,
        branch: "main".to_owned(),
        commit: String::new(),
        modules: vec![],
        source_environment_id: None,
        deployment_id: None,
        retry_of: None,
        rolled_back: false,
        cancel_requested: false,
        created_at: OffsetDateTime::UNIX_EPOCH,
        started_at: None,
        completed_at: None,
        lease_id: None,
        lease_ends_at: None,
        attempts: 0,
        commit_subject: String::new(),
        commit_author: String::new(),
        log_bytes: 0,
    }
}

fn running(now: OffsetDateTime) -> Task {
    match queued(Kind::Deploy).lease(now) {
        Leased::First(changed) => changed.state().clone(),
        _ => panic!("a queued task starts"),
    }
}

fn at(percent: i32, step: &str) -> Progress {
    Progress { percent, step: step.to_owned(), steps: (0, 0) }
}

/// PE-34, PE-35.
#[test]
fn progress_goes_forward_and_ends_at_a_hundred() {
    let now = OffsetDateTime::UNIX_EPOCH;
    let task = running(now);
    let lease = task.lease_id.unwrap();
    let task = task.report(lease, at(60, "build"), now).unwrap();
    let task = task.report(lease, at(30, ""), now).unwrap();
    assert_eq!((task.progress_percent, task.current_step.as_str()), (60, "build"));
    let done = Outcome::Completed { commit: "abc".to_owned(), url: String::new(), observed: None };
    let task = task.finish(lease, &done, now).unwrap();
    assert_eq!((task.state, task.progress_percent), (State::Completed, 100));
    assert_eq!(task.commit, "abc");
    assert_eq!(task.finish(lease, &done, now).unwrap_err(), LeaseLost);
}

/// PE-36.
#[test]
fn a_silent_runner_loses_its_task_and_the_third_ends_it() {
    let mut now = OffsetDateTime::UNIX_EPOCH;
    let mut task = running(now);
    let first = task.lease_id.unwrap();
    for _ in 1..ATTEMPTS_MAX {
        now += LEASE;
        let Leased::Again(again) = task.lease(now) else { panic!("another runner takes over") };
        task = again;
    }
    assert_eq!(task.clone().report(first, at(1, ""), now).unwrap_err(), LeaseLost);
    let Leased::Over(task, _) = task.lease(now + LEASE) else { panic!("it ends") };
    assert_eq!(task.state, State::Failed);
    assert!(task.error_message.starts_with("worker lost"));
}

/// PE-31: what waits ends at once, a deployment is asked to, and nothing else can be.
#[test]
fn a_task_is_cancelled_as_long_as_it_can_let_go() {
    let now = OffsetDateTime::UNIX_EPOCH;
    let Ok(Cancelled::Now(task)) = queued(Kind::Stop).cancel(now) else { panic!("it waits") };
    assert_eq!(task.state, State::Cancelled);
    assert!(task.cancel(now).is_err(), "what has ended stays as it is");

    let Ok(Cancelled::Asked(asked)) = running(now).cancel(now) else { panic!("it runs") };
    let task = asked.state().clone();
    assert!(task.cancel_requested && task.state == State::Running);
    // Its runner went silent: nobody starts over.
    let Leased::Over(task, Outcome::Cancelled) = task.lease(now + LEASE) else { panic!("it ends") };
    assert_eq!(task.state, State::Cancelled);

    let Leased::Again(stopping) = queued(Kind::Stop).lease(now) else { panic!("it is taken") };
    assert!(stopping.cancel(now).is_err());
}

/// PE-32: a repeated task asks for the same, and names what it repeats.
#[test]
fn a_repeated_task_is_another_one_with_the_same_configuration() {
    let mut failed = queued(Kind::Deploy);
    failed.modules = vec!["sale".to_owned()];
    failed.commit = "abc".to_owned();
    let order = Order::again(&failed);
    assert_eq!((order.kind, order.retry_of), (Kind::Deploy, Some(failed.id)));
    assert_eq!((order.modules, order.commit.as_str()), (failed.modules.clone(), ""));
    failed.kind = Kind::Promote;
    assert_eq!(Order::again(&failed).commit, "abc");
}
