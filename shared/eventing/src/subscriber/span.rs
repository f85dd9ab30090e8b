//! Spans of the handling of events.

use chassis::trace::{self, Kind};
use tracing::Span;

use super::Subscriber;
use crate::delivery::Delivery;

impl Subscriber {
    /// Creates the span of the handling of an event, in the trace of the call that wrote it.
    pub(super) fn span(&self, event: &Delivery) -> Span {
        let name = format!("process {}", event.event_type);
        let span = trace::continued(Kind::Consumer, &name, &event.traceparent());
        trace::set(&span, "messaging.operation.type", "process");
        trace::set(&span, "messaging.message.id", event.id.to_string());
        trace::set(&span, "messaging.consumer.group.name", self.db.name());
        span
    }

    /// Creates the span of the recording of a batch, in the trace of its first event and with links to those
    /// of the others.
    pub(super) fn batch_span(&self, events: &[Delivery]) -> Span {
        let Some((first, others)) = events.split_first().filter(|_| trace::is_enabled()) else {
            return Span::none();
        };
        let span = self.span(first);
        for event in others {
            trace::link(&span, &event.traceparent());
        }
        let count = i64::try_from(events.len()).unwrap_or(i64::MAX);
        trace::set(&span, "messaging.batch.message_count", count);
        span
    }
}
