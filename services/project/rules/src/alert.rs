//! Alerts that the suite raises itself: problems of environments and servers that last. A condition must hold
//! for a time before its alert opens, and be gone for a time before it closes. The second time doubles with
//! each alert about the same problem within a day, so that a condition that comes and goes leads to few
//! notifications.

pub mod condition;
pub mod wire;

#[cfg(test)]
mod tests;

use chassis::{OrgId, ProjectId};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// Kind of problem. At most one alert is open for each kind and target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The program of an environment ended, and should run.
    ProcessDown,
    /// The program of an environment runs, and does not respond to HTTP requests.
    Unhealthy,
    /// The program of an environment ends again and again.
    Restarting,
    /// An environment is near its memory limit.
    HighMemory,
    /// An environment is near its disk limit.
    LowDisk,
    /// The last deployment of an environment failed.
    DeploymentFailed,
    /// The certificate of a host name was not renewed, and expires soon.
    CertificateExpiring,
    /// A server sends no heartbeats.
    ServerUnreachable,
}

chassis::text_column!(Kind {
    ProcessDown = "process_down", Unhealthy = "unhealthy", Restarting = "restarting",
    HighMemory = "high_memory", LowDisk = "low_disk", DeploymentFailed = "deployment_failed",
    CertificateExpiring = "certificate_expiring", ServerUnreachable = "server_unreachable",
});

impl Kind {
    /// Time for which the condition must hold before an alert opens.
    fn open_after(self) -> Duration {
        match self {
            Self::ProcessDown | Self::Unhealthy => Duration::MINUTE,
            Self::HighMemory
            | Self::LowDisk
            | Self::DeploymentFailed
            | Self::CertificateExpiring => Duration::minutes(5),
            // These conditions are about a time of their own.
            Self::Restarting | Self::ServerUnreachable => Duration::ZERO,
        }
    }

    /// Time for which the condition must be gone before the first alert of a day closes.
    fn close_after(self) -> Duration {
        match self {
            Self::HighMemory | Self::LowDisk => Duration::minutes(5),
            _ => Duration::MINUTE,
        }
    }
}

/// Time for which the alerts about the same problem are counted, and longest time before an alert closes.
pub const MEMORY: Duration = Duration::DAY;

/// Time without a heartbeat after which a server is unreachable.
pub const SERVER_SILENCE: Duration = Duration::minutes(2);

/// State of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Met,
    /// Between the limit that opens an alert and the limit that closes it, or unknown.
    Between,
    Clear,
}

/// A condition, as observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub kind: Kind,
    pub condition: Condition,
    /// Measured value, for example `93 %`; may be empty.
    pub value: String,
}

/// Phase of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The condition is met, not yet for long enough.
    Pending,
    Open,
    /// Open; the condition is gone, not yet for long enough.
    Closing,
    /// Kept for a day, in which its openings count.
    Closed,
}

chassis::text_column!(Phase {
    Pending = "pending", Open = "open", Closing = "closing", Closed = "closed",
});

/// Environment or server of an alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub id: Uuid,
    pub name: String,
    pub org_id: OrgId,
    /// `None` for a server.
    pub project_id: Option<ProjectId>,
}

/// An alert about one kind of problem of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    pub target_id: Uuid,
    pub target_name: String,
    pub org_id: OrgId,
    pub project_id: Option<ProjectId>,
    pub kind: Kind,
    pub phase: Phase,
    /// Begin of the phase.
    pub since: OffsetDateTime,
    /// Number of times that it opened, within [`MEMORY`] of each other.
    pub open_count: i32,
    pub value: String,
    /// Number of openings and closings, each of which is reported to the invitation service.
    pub version: i64,
}

/// Effect of a finding.
#[derive(Debug, PartialEq, Eq)]
pub enum Transition {
    Unchanged,
    /// The phase changed, and with a higher version the alert opened or closed.
    Changed(Alert),
    /// The condition did not hold for long enough, and there was no alert about it before.
    Forgotten,
}

impl Alert {
    /// Applies a finding to the alert of its kind and target, if there is one.
    pub fn apply(
        alert: Option<Self>,
        target: &Target,
        finding: Finding,
        now: OffsetDateTime,
    ) -> Transition {
        let is_met = finding.condition == Condition::Met;
        let alert = alert.unwrap_or_else(|| Self::new(target, finding.kind, now));
        let elapsed = now - alert.since;
        let opens = is_met && elapsed >= alert.kind.open_after();
        let phase = match alert.phase {
            Phase::Closed if is_met && alert.kind.open_after().is_zero() => Phase::Open,
            Phase::Closed if is_met => Phase::Pending,
            Phase::Pending if opens => Phase::Open,
            Phase::Pending if !is_met && alert.version == 0 => return Transition::Forgotten,
            Phase::Pending if !is_met => Phase::Closed,
            Phase::Open if finding.condition == Condition::Clear => Phase::Closing,
            Phase::Closing if finding.condition != Condition::Clear => Phase::Open,
            Phase::Closing if elapsed >= alert.close_after() => Phase::Closed,
            _ => return Transition::Unchanged,
        };
        let alert = Self { target_name: target.name.clone(), ..alert };
        Transition::Changed(alert.enter(phase, finding.value, now))
    }

    fn new(target: &Target, kind: Kind, now: OffsetDateTime) -> Self {
        Self {
            target_id: target.id,
            target_name: target.name.clone(),
            org_id: target.org_id,
            project_id: target.project_id,
            kind,
            phase: Phase::Closed,
            since: now,
            open_count: 0,
            value: String::new(),
            version: 0,
        }
    }

    /// True if an alert is open in the invitation service, once this state is reported.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Closing)
    }

    fn enter(self, phase: Phase, value: String, now: OffsetDateTime) -> Self {
        // Alerts are counted while each begins within a day of the end of the one before it.
        let is_forgotten = self.phase == Phase::Closed && now - self.since >= MEMORY;
        let open_count = if is_forgotten { 0 } else { self.open_count };
        let was_open = self.is_open();
        let entered = Self { phase, since: now, open_count, ..self };
        match (was_open, entered.is_open()) {
            (false, true) => Self {
                open_count: open_count.saturating_add(1),
                value,
                version: entered.version + 1,
                ..entered
            },
            (true, false) => Self { version: entered.version + 1, ..entered },
            _ => entered,
        }
    }

    fn close_after(&self) -> Duration {
        // Sixteen doublings of a minute exceed a day.
        let doublings = self.open_count.clamp(1, 17) - 1;
        (self.kind.close_after() * (1_i32 << doublings)).min(MEMORY)
    }
}
