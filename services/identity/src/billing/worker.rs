//! Background job of billing: webhooks that have arrived, scheduled plans, seats of joins, blocks after the
//! grace period, ends of deleted organizations, and the daily comparison with the provider.

use std::sync::Arc;

use chassis::{Error, Result, Tx, error::Code};
use time::Duration;
use tokio_util::sync::CancellationToken;
use worker::{Progress, Schedule};

use super::{
    commands::Billing,
    provider::{Provider, Stripe},
    store,
};

/// Longest pause between two steps.
const INTERVAL: std::time::Duration = std::time::Duration::from_secs(2);

/// Delay after the first failure for an organization; each further failure doubles it.
const RETRY_MIN: Duration = Duration::seconds(30);

/// Longest delay after a failure.
const RETRY_MAX: Duration = Duration::hours(1);

/// Runs the job until `stop`. Without a provider it ends at once.
pub(crate) async fn run(billing: Billing, stop: CancellationToken) -> anyhow::Result<()> {
    let Provider::Stripe(stripe) = billing.provider.clone() else { return Ok(()) };
    let schedule = Schedule::woken_by(&billing.db, INTERVAL);
    let step = || step(&billing, stripe.clone());
    worker::run("billing".to_owned(), schedule, stop, step).await;
    Ok(())
}

async fn step(billing: &Billing, stripe: Arc<Stripe>) -> anyhow::Result<Progress> {
    for org_id in store::due(&billing.db, billing.terms.grace).await? {
        let Err(error) = billing.synchronize(&stripe, org_id).await else { continue };
        if is_conflict(&error) {
            continue;
        }
        tracing::warn!(%org_id, ?error, "a subscription could not be synchronized; it is retried");
        let record = store::find(&billing.db, org_id).await?;
        let failures = record.map_or(0, |it| it.failures);
        let until = billing.db.now() + delay(failures);
        let delay = async |tx: &mut Tx| -> Result<()> { store::delay(tx, org_id, until).await };
        billing.db.write_as_system("billing", delay).await?;
    }
    Ok(Progress::Idle)
}

/// True if another call has changed the subscription meanwhile.
fn is_conflict(error: &Error) -> bool {
    matches!(error, Error::Refused { code: Code::Aborted, .. })
}

/// Delay after a number of earlier failures in a row.
fn delay(failures: i32) -> Duration {
    let doublings = failures.clamp(0, 20);
    (RETRY_MIN * 2_i32.pow(u32::try_from(doublings).unwrap_or(0))).min(RETRY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_provider_is_called_less_often_and_every_hour_at_least() {
        assert_eq!(delay(0), Duration::seconds(30));
        assert_eq!(delay(1), Duration::minutes(1));
        assert_eq!(delay(7), RETRY_MAX);
        assert_eq!(delay(i32::MAX), RETRY_MAX);
    }
}
