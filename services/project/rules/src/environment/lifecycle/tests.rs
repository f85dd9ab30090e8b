//! Tests of the lifecycle of environments.

use chassis::{OrgId, ProjectId};
use uuid::Uuid;

use super::*;
use crate::{
    environment::{DEFAULT_RESOURCES, Kind as EnvironmentKind, report::TrafficTotals},
    types::EnvironmentId,
};

pub(super) const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
pub(super) const ORIGIN: TaskOrigin =
    TaskOrigin { user_id: UserId(Uuid::nil()), cause: Cause::User };

pub(crate) fn environment(state: State) -> Environment {
    Environment {
        id: EnvironmentId(Uuid::nil()),
        org_id: OrgId(Uuid::nil()),
        project_id: ProjectId(Uuid::nil()),
        name: "main".to_owned(),
        kind: EnvironmentKind::Development,
        state,
        stable_state: state,
        pause_reason: (state == State::Paused).then_some(PauseReason::User),
        resumes: false,
        branch: "main".to_owned(),
        commit: "old".to_owned(),
        url: "http://old".to_owned(),
        hostname: String::new(),
        last_error: String::new(),
        observed: None,
        last_task_state: None,
        auto_deploy: false,
        server_id: None,
        cpu_millis: DEFAULT_RESOURCES.cpu_millis,
        memory_mb: DEFAULT_RESOURCES.memory_mb,
        disk_gb: DEFAULT_RESOURCES.disk_gb,
        deployment_id: None,
        version: 1,
        created_at: NOW,
        updated_at: NOW,
    }
}

fn completed(observed: Option<Observed>) -> Outcome {
    let url = "http://new".to_owned();
    Outcome::Completed(TaskResult { commit: "new".to_owned(), url, observed })
}

/// Enqueues a task, finishes it, and returns the environment.
fn run(from: State, kind: Kind, outcome: Outcome) -> Environment {
    let enqueued = environment(from).enqueue_task(TaskSpec::new(kind), ORIGIN, None, NOW).unwrap();
    let (environment, mut task) = enqueued.state().clone();
    task.finish(&outcome, NOW);
    environment.finish_task(task, outcome, NOW).state().0.clone()
}

/// States after a task has completed, failed, or was cancelled.
#[test]
fn a_finished_task_leads_to_the_state_in_the_table() {
    use State as S;
    let failed = || Outcome::Failed { error: "no".to_owned() };
    let rows = [
        (S::Pending, Kind::Deploy, S::Running, S::Pending),
        (S::Running, Kind::Deploy, S::Running, S::Running),
        (S::Stopped, Kind::Deploy, S::Running, S::Stopped),
        (S::Error, Kind::Deploy, S::Running, S::Error),
        (S::Running, Kind::Rollback, S::Running, S::Running),
        (S::Stopped, Kind::Promote, S::Running, S::Stopped),
        (S::Running, Kind::Clone, S::Running, S::Running),
        (S::Stopped, Kind::Start, S::Running, S::Stopped),
        (S::Running, Kind::Stop, S::Stopped, S::Running),
        (S::Paused, Kind::Stop, S::Stopped, S::Paused),
        (S::Running, Kind::Restart, S::Running, S::Running),
        (S::Running, Kind::UpdateModules, S::Running, S::Running),
        (S::Running, Kind::Pause, S::Paused, S::Running),
        (S::Paused, Kind::Resume, S::Running, S::Paused),
        (S::Paused, Kind::Destroy, S::Deleted, S::Paused),
    ];
    for (from, kind, if_completed, if_cancelled) in rows {
        let after = run(from, kind, completed(None));
        assert_eq!(after.state, if_completed, "{kind:?} from {from:?}");
        assert_eq!(after.pause_reason.is_some(), after.state == S::Paused);
        let after = run(from, kind, failed());
        assert_eq!(after.state, S::Error, "{kind:?} from {from:?}");
        assert_eq!(after.last_error, "no", "{kind:?} from {from:?}");
        let after = run(from, kind, Outcome::Cancelled);
        assert_eq!(after.state, if_cancelled, "{kind:?} from {from:?}");
    }
}

#[test]
fn a_sync_sets_the_observed_state() {
    use State as S;
    let rows = [
        (S::Error, Observed::Running, S::Running),
        (S::Running, Observed::Stopped, S::Stopped),
        (S::Stopped, Observed::Running, S::Running),
        (S::Running, Observed::Failed, S::Error),
        (S::Paused, Observed::Paused, S::Paused),
        (S::Paused, Observed::Stopped, S::Stopped),
    ];
    for (from, observed, to) in rows {
        assert_eq!(run(from, Kind::Sync, completed(Some(observed))).state, to, "{observed:?}");
    }
}

/// The earlier release keeps running after a failed deployment.
#[test]
fn a_failed_deployment_keeps_the_commit_and_url() {
    let after = run(State::Running, Kind::Deploy, Outcome::Failed { error: "no".to_owned() });
    assert_eq!((after.commit.as_str(), after.url.as_str()), ("old", "http://old"));
    let after = run(State::Running, Kind::Stop, completed(None));
    assert_eq!((after.commit.as_str(), after.url.as_str()), ("old", ""));
}

/// PE-25: one task at a time, and the refusal names it.
#[test]
fn a_second_task_is_refused_with_the_first_ones_id() {
    let deploy = TaskSpec::new(Kind::Deploy);
    let enqueued = environment(State::Running).enqueue_task(deploy, ORIGIN, None, NOW);
    let (environment, task) = enqueued.unwrap().state().clone();
    let stop = TaskSpec::new(Kind::Stop);
    let refused = environment.enqueue_task(stop, ORIGIN, Some(&task), NOW).unwrap_err();
    let NotAllowed::TaskInProgress(Refused::TaskInProgress(id)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(id, task.id.to_string());
}

/// Only the platform ends its own suspension.
#[test]
fn a_suspension_is_ended_only_by_the_platform() {
    let suspended = environment(State::Running).suspend(PauseReason::Billing, None, NOW).unwrap();
    let suspended = suspended.state().clone();
    assert_eq!(suspended.state, State::Paused);
    assert_eq!(suspended.pause_reason, Some(PauseReason::Billing));
    assert!(suspended.resumes);
    for kind in [Kind::Resume, Kind::Stop, Kind::Start, Kind::Deploy] {
        let refused = suspended.clone().enqueue_task(TaskSpec::new(kind), ORIGIN, None, NOW);
        assert!(refused.is_err(), "{kind:?}");
    }
    let lifted = suspended.lift_suspension(NOW).state().clone();
    assert!(lifted.enqueue_task(TaskSpec::new(Kind::Resume), ORIGIN, None, NOW).is_ok());
    // An environment that a person had paused is not resumed when the suspension is lifted.
    let suspended = environment(State::Paused).suspend(PauseReason::Quota, None, NOW).unwrap();
    assert!(!suspended.state().resumes);
}

pub(super) fn report(observed: Observed, detail: &str) -> Report {
    Report {
        environment_id: EnvironmentId(Uuid::nil()),
        observed: Some(observed),
        http_ok: false,
        cpu_cores: 0.0,
        memory_bytes: 0,
        disk_bytes: 0,
        process_count: 0,
        release: None,
        detail: detail.to_owned(),
        url: String::new(),
        restart_count: 0,
        last_exit_code: None,
        traffic: TrafficTotals::default(),
        certificate: None,
    }
}

/// PE-36: the end of a program is noticed, but only where it should be running.
#[test]
fn a_report_of_an_ended_program_corrects_a_running_environment() {
    let ended = report(Observed::Failed, "exit 1");
    let corrected = environment(State::Running).correct_state(&ended, NOW).unwrap();
    let corrected = corrected.state().clone();
    assert_eq!((corrected.state, corrected.last_error.as_str()), (State::Error, "exit 1"));
    assert_eq!(corrected.observed, Some(Observed::Failed));
    assert!(environment(State::Stopped).correct_state(&ended, NOW).is_none());
    let running = report(Observed::Running, "");
    assert!(environment(State::Running).correct_state(&running, NOW).is_none());
}

/// PE-14: after a failed deployment the version that runs is known, and its end is noticed.
#[test]
fn a_failed_deployment_does_not_hide_what_runs() {
    let mut deployed = environment(State::Running);
    deployed.deployment_id = Some(TaskId(Uuid::nil()));
    let deploy = TaskSpec::new(Kind::Deploy);
    let enqueued = deployed.enqueue_task(deploy, ORIGIN, None, NOW).unwrap();
    let (environment, mut task) = enqueued.state().clone();
    let outcome = Outcome::Failed { error: "no".to_owned() };
    task.finish(&outcome, NOW);
    let environment = environment.observe(Some(Observed::Running));
    let failed = environment.finish_task(task, outcome, NOW).state().0.clone();
    assert_eq!((failed.state, failed.observed), (State::Error, Some(Observed::Running)));
    assert_eq!(failed.last_task_state, Some(crate::task::State::Failed));
    assert!(failed.serves());
    let ended = report(Observed::Failed, "exit 1");
    let failed = failed.correct_state(&ended, NOW).unwrap().state().clone();
    assert!(!failed.serves() && failed.last_error == "exit 1");
    assert!(failed.correct_state(&ended, NOW).is_none(), "already known");
}

/// A program that its server has restarted may have another URL; a late report of another version has not.
#[test]
fn a_restarted_program_gets_its_new_url() {
    let mut running = environment(State::Running);
    running.deployment_id = Some(TaskId(Uuid::nil()));
    let moved = Report {
        url: "http://new".to_owned(),
        restart_count: 1,
        release: Some(Uuid::nil()),
        ..report(Observed::Running, "")
    };
    let late = Report { release: None, ..report(Observed::Running, "") };
    assert!(running.clone().correct_state(&late, NOW).is_none());
    let corrected = running.correct_state(&moved, NOW).unwrap().state().clone();
    assert_eq!((corrected.url.as_str(), corrected.state), ("http://new", State::Running));
    assert!(corrected.correct_state(&moved, NOW).is_none());
}
