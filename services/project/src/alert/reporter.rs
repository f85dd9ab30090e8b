//! Background job: reports openings and closings of alerts to the invitation service.

use std::time::Duration;

use api::notification::{ReportAlertRequest, alert_service_client::AlertServiceClient};
use chassis::{Db, Result, Tx, channel::ServiceChannel, error::remote};
use project_rules::alert::Alert;
use tokio_util::sync::CancellationToken;
use worker::{Progress, Schedule};

use crate::store;

/// Pause between two searches for changes that are not reported.
const INTERVAL: Duration = Duration::from_secs(2);

/// Longest duration of a report. It ends before another replica may report a later change of the alert.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Reports changed alerts until `stop`.
pub(crate) async fn run(
    db: Db,
    invitation: ServiceChannel,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let step = || async {
        let claimed = db.write_as_system("alerts", store::alert::claim_unreported).await?;
        let reports = claimed.iter().map(|alert| report(&db, &invitation, alert));
        for result in futures::future::join_all(reports).await {
            result?;
        }
        Ok(Progress::busy_if(!claimed.is_empty()))
    };
    worker::run("alerts".to_owned(), Schedule::polling(&db, INTERVAL), stop, step).await;
    Ok(())
}

async fn report(db: &Db, invitation: &ServiceChannel, alert: &Alert) -> Result<()> {
    let mut request = tonic::Request::new(ReportAlertRequest::from(alert));
    request.set_timeout(TIMEOUT);
    let mut client = AlertServiceClient::new(invitation.clone());
    client.report_alert(request).await.map_err(remote("invitation"))?;
    let record = async |tx: &mut Tx| store::alert::record_reported(tx, alert).await;
    db.write_as_system("alerts", record).await
}
