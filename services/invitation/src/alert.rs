//! Alerts: what is wrong with a server or an environment, until it recovers. One is open for each kind and
//! target at a time (NO-15).

pub(crate) mod rpc;
pub(crate) mod store;

use api::invitation::{self as pb, Severity};
use chassis::{About, Changed, OrgId, ProjectId, timestamp};
use time::OffsetDateTime;
use uuid::Uuid;

/// Something that is wrong.
#[derive(Clone, Debug)]
pub(crate) struct Alert {
    pub(crate) id: Uuid,
    pub(crate) org_id: OrgId,
    pub(crate) project_id: Option<ProjectId>,
    /// Numbers of the contract.
    pub(crate) kind: i32,
    pub(crate) target: String,
    pub(crate) target_name: String,
    pub(crate) severity: i32,
    pub(crate) value: String,
    pub(crate) opened_at: OffsetDateTime,
    pub(crate) updated_at: OffsetDateTime,
    pub(crate) closed_at: Option<OffsetDateTime>,
}

/// What somebody reports.
pub(crate) struct Report {
    pub(crate) org_id: OrgId,
    pub(crate) project_id: Option<ProjectId>,
    pub(crate) kind: i32,
    pub(crate) target: String,
    pub(crate) target_name: String,
    /// UNSPECIFIED means that it is well.
    pub(crate) severity: Severity,
    pub(crate) value: String,
}

/// What a report means.
pub(crate) enum Turn {
    /// Something is wrong that was not.
    Open(Changed<Alert>),
    /// It is worse, or better.
    Change(Changed<Alert>),
    /// It is as before; only what was measured is new.
    Same(Alert),
    /// It is well again.
    Close(Changed<Alert>),
    /// It is well, as before.
    Nothing,
}

impl Alert {
    /// What a report means, if this alert is open for the same kind and target.
    pub(crate) fn hear(open: Option<Self>, report: Report, now: OffsetDateTime) -> Turn {
        match (open, report.severity) {
            (None, Severity::Unspecified) => Turn::Nothing,
            (None, _) => {
                let it = Self::of(report, now);
                let event = pb::AlertOpened { after: Some((&it).into()) };
                let about = it.about();
                Turn::Open(Changed::new(it, &event, about))
            }
            (Some(it), Severity::Unspecified) => {
                let it = Self { closed_at: Some(now), updated_at: now, ..it };
                let event = pb::AlertClosed { after: Some((&it).into()) };
                let about = it.about();
                Turn::Close(Changed::new(it, &event, about))
            }
            (Some(before), severity) => {
                let (severity, value) = (severity.into(), report.value);
                let it = Self { severity, value, updated_at: now, ..before.clone() };
                if before.severity == severity {
                    return Turn::Same(it);
                }
                let before = Some((&before).into());
                let event = pb::AlertChanged { before, after: Some((&it).into()) };
                let about = it.about();
                Turn::Change(Changed::new(it, &event, about))
            }
        }
    }

    fn of(report: Report, now: OffsetDateTime) -> Self {
        Self {
            id: chassis::id::new(),
            org_id: report.org_id,
            project_id: report.project_id,
            kind: report.kind,
            target: report.target,
            target_name: report.target_name,
            severity: report.severity.into(),
            value: report.value,
            opened_at: now,
            updated_at: now,
            closed_at: None,
        }
    }

    fn about(&self) -> About {
        let about = About::object("alert", self.id, &self.target_name).of(self.org_id);
        match self.project_id {
            Some(project_id) => about.in_project(project_id),
            None => about,
        }
    }
}

impl From<&Alert> for pb::Alert {
    fn from(it: &Alert) -> Self {
        Self {
            id: it.id.to_string(),
            org_id: it.org_id.into(),
            project_id: it.project_id.map(String::from).unwrap_or_default(),
            kind: it.kind,
            target: it.target.clone(),
            target_name: it.target_name.clone(),
            severity: it.severity,
            value: it.value.clone(),
            open_time: Some(timestamp(it.opened_at)),
            update_time: Some(timestamp(it.updated_at)),
            close_time: it.closed_at.map(timestamp),
        }
    }
}
