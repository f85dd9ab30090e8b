//! Alerts: open problems of servers and environments. At most one alert is open for each kind and target
//! (NO-15).

pub(crate) mod commands;
pub(crate) mod rpc;
pub(crate) mod store;
#[cfg(test)]
mod tests;

use api::notification::{self as pb, AlertKind, Severity};
use chassis::{Changed, EventTarget, OrgId, ProjectId, timestamp};
use prost::{Message, Name};
use time::OffsetDateTime;
use uuid::Uuid;

use super::scope::Scope;
use crate::db_enum::DbEnum;

/// A problem, from the first report of it to the report of the recovery.
#[derive(Clone, Debug)]
pub(crate) struct Alert {
    pub(crate) id: Uuid,
    pub(crate) org_id: OrgId,
    pub(crate) project_id: Option<ProjectId>,
    pub(crate) kind: DbEnum<AlertKind>,
    /// Id of the server or the environment.
    pub(crate) target: String,
    pub(crate) target_name: String,
    pub(crate) severity: DbEnum<Severity>,
    /// Measured value as text, for example `91 %`.
    pub(crate) value: String,
    pub(crate) opened_at: OffsetDateTime,
    pub(crate) updated_at: OffsetDateTime,
    pub(crate) closed_at: Option<OffsetDateTime>,
}

/// Report about one kind of problem of one target.
pub(crate) struct Report {
    pub(crate) org_id: OrgId,
    pub(crate) project_id: Option<ProjectId>,
    pub(crate) kind: AlertKind,
    pub(crate) target: String,
    pub(crate) target_name: String,
    /// Severity of the problem; UNSPECIFIED if there is none.
    pub(crate) severity: Severity,
    pub(crate) value: String,
}

/// Effect of a report.
#[derive(Debug)]
pub(crate) enum AlertTransition {
    /// A new problem: an alert is opened.
    Opened(Changed<Alert>),
    /// The severity of the open alert changed.
    SeverityChanged(Changed<Alert>),
    /// The severity is the same; only the measured value is stored.
    ValueUpdated(Alert),
    /// The target recovered: the open alert is closed.
    Closed(Changed<Alert>),
    /// No problem, and no open alert.
    Unchanged,
}

impl Alert {
    /// Applies a report to the open alert of its kind and target, if there is one.
    pub(crate) fn apply_report(
        open: Option<Self>,
        report: Report,
        now: OffsetDateTime,
    ) -> AlertTransition {
        match (open, report.severity) {
            (None, Severity::Unspecified) => AlertTransition::Unchanged,
            (None, _) => AlertTransition::Opened(Self::open(report, now)),
            (Some(alert), Severity::Unspecified) => AlertTransition::Closed(alert.close(now)),
            (Some(alert), severity) if alert.severity.0 == severity => {
                let value = report.value;
                AlertTransition::ValueUpdated(Self { value, updated_at: now, ..alert })
            }
            (Some(alert), severity) => {
                let changed = alert.change_severity(severity, report.value, now);
                AlertTransition::SeverityChanged(changed)
            }
        }
    }

    fn open(report: Report, now: OffsetDateTime) -> Changed<Self> {
        let alert = Self {
            id: chassis::id::new(),
            org_id: report.org_id,
            project_id: report.project_id,
            kind: DbEnum(report.kind),
            target: report.target,
            target_name: report.target_name,
            severity: DbEnum(report.severity),
            value: report.value,
            opened_at: now,
            updated_at: now,
            closed_at: None,
        };
        let event = pb::AlertOpened { after: Some((&alert).into()) };
        alert.with_event(&event)
    }

    fn change_severity(
        self,
        severity: Severity,
        value: String,
        now: OffsetDateTime,
    ) -> Changed<Self> {
        let before = Some((&self).into());
        let alert = Self { severity: DbEnum(severity), value, updated_at: now, ..self };
        let event = pb::AlertChanged { before, after: Some((&alert).into()) };
        alert.with_event(&event)
    }

    fn close(self, now: OffsetDateTime) -> Changed<Self> {
        let alert = Self { closed_at: Some(now), updated_at: now, ..self };
        let event = pb::AlertClosed { after: Some((&alert).into()) };
        alert.with_event(&event)
    }

    fn with_event<E: Message + Name>(self, event: &E) -> Changed<Self> {
        let scope = Scope { org_id: self.org_id, project_id: self.project_id };
        let object = EventTarget::object("alert", self.id, &self.target_name);
        Changed::new(self, event, scope.add_to(object))
    }
}

impl From<&Alert> for pb::Alert {
    fn from(alert: &Alert) -> Self {
        Self {
            id: alert.id.to_string(),
            org_id: alert.org_id.into(),
            project_id: alert.project_id.map(String::from).unwrap_or_default(),
            kind: alert.kind.into(),
            target: alert.target.clone(),
            target_name: alert.target_name.clone(),
            severity: alert.severity.into(),
            value: alert.value.clone(),
            open_time: Some(timestamp(alert.opened_at)),
            update_time: Some(timestamp(alert.updated_at)),
            close_time: alert.closed_at.map(timestamp),
        }
    }
}
