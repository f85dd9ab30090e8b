//! Commands of alerts.

use chassis::{Result, Tx};

use super::{Alert, AlertTransition, Report, store};

/// Applies a report to the open alert of its kind and target. Returns the alert, unless there is no problem
/// and none was open.
pub(super) async fn report(tx: &mut Tx, report: Report) -> Result<Option<Alert>> {
    let open = store::lock_open(tx, &report).await?;
    Ok(match Alert::apply_report(open, report, tx.now) {
        AlertTransition::Opened(opened) => Some(store::insert(tx, opened).await?),
        AlertTransition::SeverityChanged(changed) | AlertTransition::Closed(changed) => {
            store::update(tx, changed.state()).await?;
            Some(tx.emit(changed))
        }
        AlertTransition::ValueUpdated(alert) => {
            store::update(tx, &alert).await?;
            Some(alert)
        }
        AlertTransition::Unchanged => None,
    })
}
