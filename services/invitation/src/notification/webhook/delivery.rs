//! Deliveries: one event to one webhook, attempted until it succeeds or ten attempts failed.

pub(crate) mod store;

use api::notification::DeliveryState;
use chassis::OrgId;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::sender::Response;
use crate::db_enum::DbEnum;

/// Pauses after each failed attempt (N-14).
const RETRY_DELAYS: [Duration; 9] = [
    Duration::seconds(5),
    Duration::minutes(5),
    Duration::minutes(30),
    Duration::hours(2),
    Duration::hours(5),
    Duration::hours(10),
    Duration::hours(14),
    Duration::hours(20),
    Duration::hours(24),
];

/// Longest pause that a receiver can request by `Retry-After`.
const RETRY_AFTER_MAX: Duration = Duration::hours(24);

/// Greatest random part of a pause, relative to the pause.
const JITTER_MAX: f64 = 0.1;

/// A delivery, as it is listed.
pub(crate) struct Delivery {
    pub(crate) id: Uuid,
    pub(crate) event_id: Uuid,
    /// Name of the notification type.
    pub(crate) event_type: String,
    pub(crate) state: DbEnum<DeliveryState>,
    /// Number of attempts so far.
    pub(crate) attempts: i32,
    /// Time of the next attempt, while the delivery is pending.
    pub(crate) due_at: OffsetDateTime,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) delivered_at: Option<OffsetDateTime>,
    /// HTTP status of the last response; 0 without a response.
    pub(crate) response_status: i32,
    /// Duration of the last attempt in milliseconds.
    pub(crate) duration_ms: i32,
    /// Beginning of the last response's body.
    pub(crate) response_body: String,
    /// Error message of the last attempt; empty if it succeeded.
    pub(crate) failure: String,
}

/// A delivery that is due.
pub(crate) struct DueDelivery {
    pub(crate) id: Uuid,
    pub(crate) event_id: Uuid,
    /// Body of the request; the same bytes at every attempt.
    pub(crate) body: String,
    /// Number of attempts so far.
    pub(crate) attempts: i32,
    /// Trace context of the call that the delivery follows from (`traceparent`); empty if spans are not
    /// exported.
    pub(crate) traceparent: String,
}

/// An event for several webhooks of an organization.
pub(crate) struct QueuedEvent {
    pub(crate) org_id: OrgId,
    pub(crate) event_id: Uuid,
    /// Name of the notification type.
    pub(crate) event_type: &'static str,
    pub(crate) webhook_ids: Vec<Uuid>,
    /// Bodies of the requests, in the order of the webhooks.
    pub(crate) bodies: Vec<String>,
}

/// Result of one attempt.
pub(crate) struct Attempt<'a> {
    pub(crate) org_id: OrgId,
    pub(crate) delivery_id: Uuid,
    pub(crate) state: DeliveryState,
    /// Time of the next attempt if the delivery is pending; otherwise of this one.
    pub(crate) due_at: OffsetDateTime,
    pub(crate) response: &'a Response,
}

impl<'a> Attempt<'a> {
    /// Evaluates the response to an attempt: delivered, pending until the next attempt, or failed.
    pub(crate) fn of(
        org_id: OrgId,
        delivery: &DueDelivery,
        response: &'a Response,
        now: OffsetDateTime,
    ) -> Self {
        let (state, due_at) = match &response.failure {
            None => (DeliveryState::Delivered, now),
            Some(_) => match next_attempt_at(delivery.attempts + 1, jitter(delivery.id), now) {
                // Later if the receiver requests it.
                Some(due_at) => {
                    let requested_at = requested_pause_end(response, now);
                    (DeliveryState::Pending, requested_at.map_or(due_at, |it| it.max(due_at)))
                }
                None => (DeliveryState::Failed, now),
            },
        };
        Self { org_id, delivery_id: delivery.id, state, due_at, response }
    }
}

/// End of the pause that a receiver requests, at most [`RETRY_AFTER_MAX`] from now.
pub(crate) fn requested_pause_end(
    response: &Response,
    now: OffsetDateTime,
) -> Option<OffsetDateTime> {
    let requested_at = response.retry_after?.time(now);
    Some(requested_at.clamp(now, now + RETRY_AFTER_MAX))
}

/// Time of the next attempt after a number of failed ones; `None` after the last. `jitter` is between 0 and
/// 1 and keeps deliveries that failed together from being attempted together.
fn next_attempt_at(attempts: i32, jitter: f64, now: OffsetDateTime) -> Option<OffsetDateTime> {
    let delay = RETRY_DELAYS.get(usize::try_from(attempts).ok()?.checked_sub(1)?)?;
    Some(now + *delay * (1.0 + JITTER_MAX * jitter))
}

/// Jitter of a delivery, between 0 and 1: taken from a random byte of its id.
fn jitter(delivery_id: Uuid) -> f64 {
    f64::from(delivery_id.as_bytes()[15]) / 255.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten attempts (NO-5) within 75 hours, 35 minutes and 5 seconds (N-14), plus at most 10 % of jitter.
    #[test]
    fn a_delivery_is_attempted_ten_times_in_three_days() {
        let start = OffsetDateTime::UNIX_EPOCH;
        let mut now = start;
        let mut attempts = 1;
        while let Some(next) = next_attempt_at(attempts, 0.0, now) {
            now = next;
            attempts += 1;
        }
        assert_eq!(attempts, 10);
        assert_eq!(now - start, Duration::minutes(75 * 60 + 35) + Duration::seconds(5));
        let with_jitter = next_attempt_at(1, 1.0, start);
        assert_eq!(with_jitter, Some(start + Duration::milliseconds(5_500)), "5 seconds plus 10 %");
        assert_eq!(
            next_attempt_at(0, 0.0, start),
            None,
            "without a failed attempt there is no pause"
        );
    }
}
