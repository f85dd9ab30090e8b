//! Conditions of alerts about an environment, from the report of its server.

use chassis::foreign_text::cut_line;
use time::{Duration, OffsetDateTime, UtcOffset};

use super::{Condition, Finding, Kind, Target};
use crate::{
    environment::{
        State,
        report::{PlacedEnvironment, Report},
    },
    task::Observed,
};

/// Use of a limit, in percent, from which an alert opens, and below which it closes.
const HIGH_USE: i64 = 90;
const NORMAL_USE: i64 = 80;

/// Number of restarts since the start from which a program that was restarted within [`RESTART_WINDOW`] is
/// restarting again and again. The runner gives up after five.
const RESTARTS_MIN: i32 = 3;
/// Time without a restart after which a program runs again.
const RESTART_WINDOW: Duration = Duration::minutes(10);

/// Maximum length of a host name in the value of an alert, which has at most 100 characters.
const HOSTNAME_BYTES_MAX: usize = 70;

/// An environment whose conditions are judged.
pub struct Judged<'a> {
    pub environment: &'a PlacedEnvironment,
    pub report: &'a Report,
    /// Time of the report with which the number of restarts last grew.
    pub restarted_at: Option<OffsetDateTime>,
}

impl Judged<'_> {
    pub fn target(&self) -> Target {
        Target {
            id: self.environment.id.0,
            name: self.environment.name.clone(),
            org_id: self.environment.org_id,
            project_id: Some(self.environment.project_id),
        }
    }

    /// Findings of every kind of problem of an environment.
    pub fn findings(&self, now: OffsetDateTime) -> [Finding; 7] {
        let Self { environment, report, .. } = self;
        let restarts = report.restart_count;
        [
            finding(Kind::ProcessDown, self.of_program(report.observed == Some(Observed::Failed))),
            finding(
                Kind::Unhealthy,
                self.of_program(report.observed == Some(Observed::Running) && !report.http_ok),
            ),
            Finding {
                value: format!("{restarts} restarts"),
                ..finding(Kind::Restarting, self.of_program(self.is_restarting(now)))
            },
            use_of_limit(
                Kind::HighMemory,
                report.memory_bytes,
                i64::from(environment.memory_mb) << 20,
            ),
            use_of_limit(Kind::LowDisk, report.disk_bytes, i64::from(environment.disk_gb) << 30),
            finding(Kind::DeploymentFailed, self.of_deployment()),
            self.of_certificate(now),
        ]
    }

    /// A certificate is near its end with less than a sixth of its lifetime left, and renewed with a quarter.
    fn of_certificate(&self, now: OffsetDateTime) -> Finding {
        let Some(certificate) = &self.report.certificate else {
            return finding(Kind::CertificateExpiring, Condition::Clear);
        };
        let lifetime = certificate.end - certificate.start;
        let remaining = certificate.end - now;
        let condition = if remaining < lifetime / 6 || !lifetime.is_positive() {
            Condition::Met
        } else if remaining < lifetime / 4 {
            Condition::Between
        } else {
            Condition::Clear
        };
        let hostname = cut_line(&certificate.hostname, HOSTNAME_BYTES_MAX);
        let value = format!("{hostname} until {}", minute(certificate.end));
        Finding { value, ..finding(Kind::CertificateExpiring, condition) }
    }

    fn is_restarting(&self, now: OffsetDateTime) -> bool {
        self.report.restart_count >= RESTARTS_MIN
            && self.restarted_at.is_some_and(|it| now - it < RESTART_WINDOW)
    }

    /// Condition of a program. It is unknown while a task changes the environment.
    fn of_program(&self, is_met: bool) -> Condition {
        match self.environment.state {
            State::Running | State::Error if self.report.observed.is_none() => Condition::Between,
            State::Running | State::Error if is_met => Condition::Met,
            State::Running | State::Error | State::Stopped | State::Paused => Condition::Clear,
            State::Pending
            | State::Deploying
            | State::Cloning
            | State::Destroying
            | State::Deleted => Condition::Between,
        }
    }

    fn of_deployment(&self) -> Condition {
        match self.environment.state {
            State::Deploying => Condition::Between,
            _ if self.environment.deployment_failed => Condition::Met,
            _ => Condition::Clear,
        }
    }
}

/// A time in UTC, to the minute.
fn minute(time: OffsetDateTime) -> String {
    let time = time.to_offset(UtcOffset::UTC);
    format!("{} {:02}:{:02} UTC", time.date(), time.hour(), time.minute())
}

fn finding(kind: Kind, condition: Condition) -> Finding {
    Finding { kind, condition, value: String::new() }
}

/// Condition of the use of a limit, in bytes.
fn use_of_limit(kind: Kind, used: i64, limit: i64) -> Finding {
    let percent = used.saturating_mul(100) / limit.max(1);
    let condition = match percent {
        HIGH_USE.. => Condition::Met,
        NORMAL_USE.. => Condition::Between,
        _ => Condition::Clear,
    };
    Finding { kind, condition, value: format!("{percent} %") }
}
