//! Tests of tasks and their leases.

use super::{
    lease::{ATTEMPTS_MAX, LEASE_DURATION, LeaseLost, LeaseOutcome, Progress},
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
        request_event_id: None,
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
        LeaseOutcome::DeploymentStarted(changed) => changed.state().clone(),
        _ => panic!("a queued deployment starts"),
    }
}

fn progress(percent: i32, step: &str) -> Progress {
    Progress { percent, current_step: step.to_owned(), steps_completed: 0, total_steps: 0 }
}

/// PE-34, PE-35.
#[test]
fn progress_never_decreases_and_ends_at_100() {
    let now = OffsetDateTime::UNIX_EPOCH;
    let task = running(now);
    let lease = task.lease_id.unwrap();
    let task = task.report(lease, progress(60, "build"), now).unwrap();
    let task = task.report(lease, progress(30, ""), now).unwrap();
    assert_eq!((task.progress_percent, task.current_step.as_str()), (60, "build"));
    let completed =
        Outcome::Completed(TaskResult { commit: "abc".to_owned(), ..TaskResult::default() });
    let task = task.finish_leased(lease, &completed, now).unwrap();
    assert_eq!((task.state, task.progress_percent), (State::Completed, 100));
    assert_eq!(task.commit, "abc");
    assert_eq!(task.finish_leased(lease, &completed, now).unwrap_err(), LeaseLost);
}

/// PE-36.
#[test]
fn a_task_is_leased_again_after_its_lease_ends_and_fails_after_the_third() {
    let mut now = OffsetDateTime::UNIX_EPOCH;
    let mut task = running(now);
    let first = task.lease_id.unwrap();
    for _ in 1..ATTEMPTS_MAX {
        now += LEASE_DURATION;
        let LeaseOutcome::Leased(again) = task.lease(now) else {
            panic!("another runner leases the task")
        };
        task = again;
    }
    assert_eq!(task.clone().report(first, progress(1, ""), now).unwrap_err(), LeaseLost);
    let LeaseOutcome::Finished(task, _) = task.lease(now + LEASE_DURATION) else {
        panic!("the task fails")
    };
    assert_eq!(task.state, State::Failed);
    assert!(task.error_message.starts_with("worker lost"));
}

/// PE-31: a queued task is cancelled at once, a running deployment or copy by its runner, another running
/// task not at all.
#[test]
fn queued_tasks_and_running_deployments_can_be_cancelled() {
    let now = OffsetDateTime::UNIX_EPOCH;
    let Ok(Cancellation::Cancelled(task)) = queued(Kind::Stop).cancel(now) else {
        panic!("a queued task is cancelled at once")
    };
    assert_eq!(task.state, State::Cancelled);
    assert!(task.cancel(now).is_err(), "a finished task cannot be cancelled");

    let Ok(Cancellation::Requested(requested)) = running(now).cancel(now) else {
        panic!("the cancellation of a running deployment is requested")
    };
    let task = requested.state().clone();
    assert!(task.cancel_requested && task.state == State::Running);
    // After the end of the lease the task is not leased again.
    let LeaseOutcome::Finished(task, Outcome::Cancelled) = task.lease(now + LEASE_DURATION) else {
        panic!("the task is cancelled")
    };
    assert_eq!(task.state, State::Cancelled);

    let LeaseOutcome::Leased(copying) = queued(Kind::Clone).lease(now) else {
        panic!("the task is leased")
    };
    assert!(matches!(copying.cancel(now), Ok(Cancellation::Requested(_))));
    let LeaseOutcome::Leased(stopping) = queued(Kind::Stop).lease(now) else {
        panic!("the task is leased")
    };
    assert!(stopping.cancel(now).is_err());
}

/// PE-32.
#[test]
fn a_retry_has_the_same_configuration_and_names_the_failed_task() {
    let mut failed = queued(Kind::Deploy);
    failed.modules = vec!["sale".to_owned()];
    failed.commit = "abc".to_owned();
    let spec = TaskSpec::retry(&failed);
    assert_eq!((spec.kind, spec.retry_of), (Kind::Deploy, Some(failed.id)));
    assert_eq!((spec.modules, spec.commit.as_str()), (failed.modules.clone(), ""));
    failed.kind = Kind::Promote;
    assert_eq!(TaskSpec::retry(&failed).commit, "abc");
}
