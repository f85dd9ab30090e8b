//! Tests of conditions and of the phases of alerts.

use super::{condition::Judged, *};
use crate::{
    environment::{
        State,
        report::{PlacedEnvironment, Report, ServedCertificate, TrafficTotals},
    },
    task::Observed,
    types::EnvironmentId,
};

const START: OffsetDateTime = time::macros::datetime!(2026-11-28 12:00 UTC);

fn target() -> Target {
    Target {
        id: Uuid::from_u128(1),
        name: "main".to_owned(),
        org_id: OrgId(Uuid::from_u128(2)),
        project_id: None,
    }
}

/// An alert to which findings are applied at times since [`START`].
#[derive(Default)]
struct Timeline {
    alert: Option<Alert>,
}

impl Timeline {
    /// Returns the number of reports up to now.
    fn apply(&mut self, kind: Kind, condition: Condition, at: Duration) -> i64 {
        let finding = Finding { kind, condition, value: "91 %".to_owned() };
        match Alert::apply(self.alert.clone(), &target(), finding, START + at) {
            Transition::Unchanged => {}
            Transition::Changed(alert) => self.alert = Some(alert),
            Transition::Forgotten => self.alert = None,
        }
        self.alert.as_ref().map_or(0, |it| it.version)
    }

    fn phase(&self) -> Option<Phase> {
        self.alert.as_ref().map(|it| it.phase)
    }
}

#[test]
fn an_alert_opens_and_closes_after_a_time() {
    use Condition::{Between, Clear, Met};
    let mut it = Timeline::default();
    let minute = Duration::minutes;
    for (condition, at, phase, reports) in [
        (Clear, 0, None, 0),
        (Met, 1, Some(Phase::Pending), 0),
        (Between, 2, None, 0),
        (Met, 3, Some(Phase::Pending), 0),
        (Met, 7, Some(Phase::Pending), 0),
        (Met, 8, Some(Phase::Open), 1),
        (Between, 9, Some(Phase::Open), 1),
        (Clear, 10, Some(Phase::Closing), 1),
        (Clear, 14, Some(Phase::Closing), 1),
        (Between, 15, Some(Phase::Open), 1),
        (Clear, 16, Some(Phase::Closing), 1),
        (Clear, 21, Some(Phase::Closed), 2),
        (Clear, 22, Some(Phase::Closed), 2),
        // The second one closes after twice the time.
        (Met, 23, Some(Phase::Pending), 2),
        (Between, 24, Some(Phase::Closed), 2),
        (Met, 25, Some(Phase::Pending), 2),
        (Met, 30, Some(Phase::Open), 3),
        (Clear, 31, Some(Phase::Closing), 3),
        (Clear, 40, Some(Phase::Closing), 3),
        (Clear, 41, Some(Phase::Closed), 4),
        // A day later, it closes after the first time again.
        (Met, 41 + 1_440, Some(Phase::Pending), 4),
        (Met, 46 + 1_440, Some(Phase::Open), 5),
        (Clear, 47 + 1_440, Some(Phase::Closing), 5),
        (Clear, 52 + 1_440, Some(Phase::Closed), 6),
    ] {
        assert_eq!(it.apply(Kind::HighMemory, condition, minute(at)), reports, "minute {at}");
        assert_eq!(it.phase(), phase, "minute {at}");
    }
    assert_eq!(it.alert.unwrap().value, "91 %");
}

#[test]
fn a_condition_about_a_time_of_its_own_opens_at_once() {
    let mut it = Timeline::default();
    assert_eq!(it.apply(Kind::ServerUnreachable, Condition::Met, Duration::ZERO), 1);
    assert_eq!(it.apply(Kind::ServerUnreachable, Condition::Clear, Duration::MINUTE), 1);
    assert_eq!(it.apply(Kind::ServerUnreachable, Condition::Clear, Duration::minutes(2)), 2);
    assert_eq!(it.apply(Kind::ServerUnreachable, Condition::Met, Duration::minutes(3)), 3);
}

/// A thousand flaps of any period lead to few reports.
#[test]
fn a_flapping_condition_is_reported_few_times() {
    for (met, clear) in [(5, 5), (65, 65), (60, 120), (400, 600), (3_600, 3_600), (30, 7_200)] {
        let mut it = Timeline::default();
        let mut reports = 0;
        let mut at = 0;
        for _ in 0..1_000 {
            for (condition, seconds) in [(Condition::Met, met), (Condition::Clear, clear)] {
                let end = at + seconds;
                while at < end {
                    reports = it.apply(Kind::Unhealthy, condition, Duration::seconds(at));
                    at += 5;
                }
            }
        }
        assert!(reports <= 16, "{met} s and {clear} s: {reports} reports");
    }
}

fn environment() -> PlacedEnvironment {
    PlacedEnvironment {
        id: EnvironmentId(Uuid::from_u128(1)),
        org_id: OrgId(Uuid::from_u128(2)),
        project_id: ProjectId(Uuid::from_u128(3)),
        name: "main".to_owned(),
        state: State::Running,
        observed: Some(Observed::Running),
        url: String::new(),
        memory_mb: 100,
        disk_gb: 1,
        deployment_failed: false,
    }
}

fn healthy() -> Report {
    Report {
        environment_id: EnvironmentId(Uuid::from_u128(1)),
        observed: Some(Observed::Running),
        http_ok: true,
        cpu_cores: 0.0,
        memory_bytes: 0,
        disk_bytes: 0,
        process_count: 1,
        release: None,
        detail: String::new(),
        url: String::new(),
        restart_count: 0,
        last_exit_code: None,
        traffic: TrafficTotals::default(),
        certificate: None,
    }
}

#[test]
fn conditions_follow_from_reports() {
    use Condition::{Between, Clear, Met};
    let mut environment = environment();
    let conditions = |environment: &PlacedEnvironment, report: &Report, restarted_at| {
        let judged = Judged { environment, report, restarted_at };
        judged.findings(START).map(|it| it.condition)
    };
    let mib = 1 << 20;
    for (report, expected) in [
        (healthy(), [Clear; 7]),
        (
            Report { observed: Some(Observed::Failed), http_ok: false, ..healthy() },
            [Met, Clear, Clear, Clear, Clear, Clear, Clear],
        ),
        (Report { http_ok: false, ..healthy() }, [Clear, Met, Clear, Clear, Clear, Clear, Clear]),
        (
            Report { observed: None, ..healthy() },
            [Between, Between, Between, Clear, Clear, Clear, Clear],
        ),
        (Report { restart_count: 3, ..healthy() }, [Clear, Clear, Met, Clear, Clear, Clear, Clear]),
        (
            Report { memory_bytes: 90 * mib, disk_bytes: 921 * mib, ..healthy() },
            [Clear, Clear, Clear, Met, Between, Clear, Clear],
        ),
        (
            Report { memory_bytes: 80 * mib, disk_bytes: 922 * mib, ..healthy() },
            [Clear, Clear, Clear, Between, Met, Clear, Clear],
        ),
    ] {
        assert_eq!(conditions(&environment, &report, Some(START)), expected);
    }
    let restarted = Report { restart_count: 3, ..healthy() };
    let long_ago = Some(START - Duration::minutes(10));
    assert_eq!(conditions(&environment, &restarted, long_ago), [Clear; 7]);
    let failed = Report { observed: Some(Observed::Failed), ..healthy() };
    environment.state = State::Stopped;
    assert_eq!(conditions(&environment, &failed, None), [Clear; 7]);
    environment.state = State::Deploying;
    let unknown = [Between, Between, Between, Clear, Clear, Between, Clear];
    assert_eq!(conditions(&environment, &failed, None), unknown);
    environment.state = State::Error;
    environment.deployment_failed = true;
    let both = [Met, Clear, Clear, Clear, Clear, Met, Clear];
    assert_eq!(conditions(&environment, &failed, None), both);
}

/// An alert about a certificate opens with a sixth of its lifetime left, and closes with a quarter.
#[test]
fn a_certificate_that_is_not_renewed_is_near_its_end() {
    let environment = environment();
    let condition = |certificate| {
        let report = Report { certificate, ..healthy() };
        let judged = Judged { environment: &environment, report: &report, restarted_at: None };
        let findings = judged.findings(START);
        findings.into_iter().find(|it| it.kind == Kind::CertificateExpiring).unwrap()
    };
    let days = |lifetime: i64, remaining: i64| {
        let end = START + Duration::days(remaining);
        let start = end - Duration::days(lifetime);
        Some(ServedCertificate { hostname: "shop.example.com".to_owned(), start, end })
    };
    for (certificate, expected) in [
        (None, Condition::Clear),
        (days(90, 30), Condition::Clear),
        (days(90, 23), Condition::Clear),
        (days(90, 22), Condition::Between),
        (days(90, 15), Condition::Between),
        (days(90, 14), Condition::Met),
        (days(90, -1), Condition::Met),
        (days(-1, 90), Condition::Met),
    ] {
        assert_eq!(condition(certificate.clone()).condition, expected, "{certificate:?}");
    }
    assert_eq!(condition(days(90, 14)).value, "shop.example.com until 2026-12-12 12:00 UTC");
}
