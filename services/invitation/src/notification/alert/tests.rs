//! Tests of the transitions of alerts.

use super::*;

fn report(severity: Severity, value: &str) -> Report {
    Report {
        org_id: OrgId(Uuid::from_u128(1)),
        project_id: None,
        kind: AlertKind::LowDisk,
        target: "server-1".to_owned(),
        target_name: "Server 1".to_owned(),
        severity,
        value: value.to_owned(),
    }
}

/// NO-15: one alert from the first report to the recovery.
#[test]
fn an_alert_opens_changes_and_closes_once() {
    let now = OffsetDateTime::UNIX_EPOCH;
    let healthy = Alert::apply_report(None, report(Severity::Unspecified, ""), now);
    assert!(matches!(healthy, AlertTransition::Unchanged), "{healthy:?}");
    let opened = Alert::apply_report(None, report(Severity::Warning, "91 %"), now);
    let AlertTransition::Opened(opened) = opened else { panic!("{opened:?}") };
    let alert = opened.state().clone();

    let same = Alert::apply_report(Some(alert.clone()), report(Severity::Warning, "92 %"), now);
    let AlertTransition::ValueUpdated(same) = same else { panic!("{same:?}") };
    assert_eq!((same.id, same.value.as_str()), (alert.id, "92 %"));
    let worse = Alert::apply_report(Some(same), report(Severity::Critical, "99 %"), now);
    let AlertTransition::SeverityChanged(worse) = worse else { panic!("{worse:?}") };
    assert_eq!(worse.state().severity.0, Severity::Critical);

    let recovered = report(Severity::Unspecified, "");
    let closed = Alert::apply_report(Some(worse.state().clone()), recovered, now);
    let AlertTransition::Closed(closed) = closed else { panic!("{closed:?}") };
    assert_eq!(closed.state().closed_at, Some(now));
}
