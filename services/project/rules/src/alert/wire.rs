//! Conversion of alerts to reports for the invitation service.

use api::notification as pb;

use super::{Alert, Kind};

/// Maximum length of the name of a target, in characters.
const NAME_CHARS_MAX: usize = 200;

impl From<Kind> for pb::AlertKind {
    fn from(it: Kind) -> Self {
        match it {
            Kind::ProcessDown => Self::ProcessDown,
            Kind::Unhealthy => Self::Unhealthy,
            Kind::Restarting => Self::Restarting,
            Kind::HighMemory => Self::HighMemory,
            Kind::LowDisk => Self::LowDisk,
            Kind::DeploymentFailed => Self::DeploymentFailed,
            Kind::CertificateExpiring => Self::CertificateExpiring,
            Kind::ServerUnreachable => Self::ServerUnreachable,
        }
    }
}

fn severity(kind: Kind) -> pb::Severity {
    match kind {
        Kind::ProcessDown | Kind::Unhealthy | Kind::ServerUnreachable => pb::Severity::Critical,
        Kind::Restarting
        | Kind::HighMemory
        | Kind::LowDisk
        | Kind::DeploymentFailed
        | Kind::CertificateExpiring => pb::Severity::Warning,
    }
}

impl From<&Alert> for pb::ReportAlertRequest {
    fn from(it: &Alert) -> Self {
        // A report without a severity closes the alert.
        let severity = if it.is_open() { severity(it.kind) } else { pb::Severity::Unspecified };
        Self {
            org_id: it.org_id.into(),
            project_id: it.project_id.map(String::from).unwrap_or_default(),
            kind: pb::AlertKind::from(it.kind).into(),
            target: it.target_id.to_string(),
            target_name: it.target_name.chars().take(NAME_CHARS_MAX).collect(),
            severity: severity.into(),
            value: it.value.clone(),
        }
    }
}
