//! Where tasks lead.

use chassis::{OrgId, ProjectId};
use uuid::Uuid;

use super::*;
use crate::environment::{EnvironmentId, Kind as Purpose, ROOM};

pub(super) const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
pub(super) const ANN: (UserId, Cause) = (UserId(Uuid::nil()), Cause::User);

pub(super) fn environment(state: State) -> Environment {
    Environment {
        id: EnvironmentId(Uuid::nil()),
        org_id: OrgId(Uuid::nil()),
        project_id: ProjectId(Uuid::nil()),
        name: "main".to_owned(),
        kind: Purpose::Development,
        state,
        stable_state: state,
        pause_reason: (state == State::Paused).then_some(PauseReason::User),
        resumes: false,
        branch: "main".to_owned(),
        commit: "0ld".to_owned(),
        url: "http://old".to_owned(),
        last_error: String::new(),
        auto_deploy: false,
        server_id: None,
        cpu_millis: ROOM.cpu_millis,
        memory_mb: ROOM.memory_mb,
        disk_gb: ROOM.disk_gb,
        deployment_id: None,
        version: 1,
        created_at: NOW,
        updated_at: NOW,
    }
}

fn done(observed: Option<Observed>) -> Outcome {
    Outcome::Completed { commit: "new".to_owned(), url: "http://new".to_owned(), observed }
}

/// Begins a task of a kind in a state, ends it, and answers where that led.
fn run(from: State, kind: Kind, outcome: Outcome) -> Environment {
    let begun = environment(from).begin(Order::plain(kind), ANN, None, NOW).unwrap();
    let (begun, mut task) = begun.state().clone();
    task.end(&outcome, NOW);
    begun.finish(task, outcome, NOW).state().0.clone()
}

/// 2.3: where each task leads, when it is done, fails, or is cancelled.
#[test]
fn a_task_leads_where_the_table_says() {
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
        (S::Running, Kind::Pause, S::Paused, S::Running),
        (S::Paused, Kind::Resume, S::Running, S::Paused),
        (S::Paused, Kind::Destroy, S::Deleted, S::Paused),
    ];
    for (from, kind, when_done, when_cancelled) in rows {
        let it = run(from, kind, done(None));
        assert_eq!(it.state, when_done, "{kind:?} from {from:?}");
        assert_eq!(it.pause_reason.is_some(), it.state == S::Paused);
        let it = run(from, kind, failed());
        assert_eq!((it.state, it.last_error.as_str()), (S::Error, "no"), "{kind:?} from {from:?}");
        let it = run(from, kind, Outcome::Cancelled);
        assert_eq!(it.state, when_cancelled, "{kind:?} from {from:?}");
    }
}

/// 2.3: a look at the server corrects what is believed.
#[test]
fn a_sync_finds_what_is_really_there() {
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
        assert_eq!(run(from, Kind::Sync, done(Some(observed))).state, to, "{observed:?}");
    }
}

/// 2.7: what served before goes on being known after a deployment that failed.
#[test]
fn a_failed_deployment_leaves_what_serves() {
    let it = run(State::Running, Kind::Deploy, Outcome::Failed { error: "no".to_owned() });
    assert_eq!((it.commit.as_str(), it.url.as_str()), ("0ld", "http://old"));
    let it = run(State::Running, Kind::Stop, done(None));
    assert_eq!((it.commit.as_str(), it.url.as_str()), ("0ld", ""));
}

/// PE-25: one task at a time, and the refusal names it.
#[test]
fn a_second_task_is_refused_with_the_first_ones_id() {
    let begun = environment(State::Running).begin(Order::plain(Kind::Deploy), ANN, None, NOW);
    let (it, task) = begun.unwrap().state().clone();
    let refused = it.begin(Order::plain(Kind::Stop), ANN, Some(&task), NOW).unwrap_err();
    let NotQueued::Busy(Refused::TaskInProgress(id)) = refused else { panic!("{refused:?}") };
    assert_eq!(id, task.id.to_string());
}

/// 2.3: what the platform paused only the platform lets go on.
#[test]
fn what_the_platform_pauses_it_lifts() {
    let paused = environment(State::Running).suspend(PauseReason::Billing, None, NOW).unwrap();
    let paused = paused.state().clone();
    assert_eq!((paused.state, paused.pause_reason), (State::Paused, Some(PauseReason::Billing)));
    assert!(paused.resumes);
    for kind in [Kind::Resume, Kind::Stop, Kind::Start, Kind::Deploy] {
        assert!(paused.clone().begin(Order::plain(kind), ANN, None, NOW).is_err(), "{kind:?}");
    }
    let lifted = paused.lift(NOW).state().clone();
    assert!(lifted.begin(Order::plain(Kind::Resume), ANN, None, NOW).is_ok());
    // What a person had paused stays paused when the platform lets go.
    let paused = environment(State::Paused).suspend(PauseReason::Quota, None, NOW).unwrap();
    assert!(!paused.state().resumes);
}

/// PE-36: a program that ended by itself is seen, but only where it should run.
#[test]
fn a_program_that_ended_is_seen() {
    let seen = environment(State::Running).correct(Observed::Failed, "exit 1", NOW).unwrap();
    assert_eq!((seen.state().state, seen.state().last_error.as_str()), (State::Error, "exit 1"));
    assert!(environment(State::Stopped).correct(Observed::Failed, "", NOW).is_none());
    assert!(environment(State::Running).correct(Observed::Running, "", NOW).is_none());
}
