//! Deduplication and ordering of delivered events: each is appended once, in the order of its producer, and
//! only after the one before it (G-02, G-04).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::EntryFlags;
use crate::decode::{IncomingEvent, Producer};

/// Last appended sequence number of each producer.
pub(crate) type LastSequences = HashMap<Producer, i64>;

/// Age from which an event with an old sequence number that is not in the log is taken as purged. A younger
/// one was never appended: its producer reuses sequence numbers.
const PURGED_AFTER: Duration = Duration::days(30);
/// Largest accepted difference of clocks.
const CLOCK_SKEW_MAX: Duration = Duration::seconds(5);

/// Result of ordering a batch.
#[derive(Default)]
pub(super) struct OrderedBatch {
    /// Events to append, in order.
    pub(super) accepted: Vec<AcceptedEvent>,
    /// Ids of events whose predecessor is missing; they have to be delivered again.
    pub(super) deferred: Vec<Uuid>,
}

/// An event to append, with the anomalies of its entry.
pub(super) struct AcceptedEvent {
    pub(super) event: IncomingEvent,
    pub(super) flags: EntryFlags,
}

/// Orders a batch and advances `last_sequences`. `logged` are the events of the batch that are in the log.
pub(super) fn order_batch(
    batch: Vec<IncomingEvent>,
    last_sequences: &mut LastSequences,
    logged: &BTreeSet<Uuid>,
    now: OffsetDateTime,
) -> OrderedBatch {
    let mut ordered = OrderedBatch::default();
    let mut seen = logged.clone();
    let mut waiting: HashMap<Producer, BTreeMap<i64, IncomingEvent>> = HashMap::new();
    let clock_flags = |event: &IncomingEvent| {
        if event.clock_skew(now) > CLOCK_SKEW_MAX {
            EntryFlags::CLOCK_SKEW
        } else {
            EntryFlags::default()
        }
    };
    for event in batch {
        if !seen.insert(event.id) {
            continue;
        }
        let producer = event.producer();
        let last = last_sequences.get(&producer).copied().unwrap_or(0);
        if event.sequence == 0 {
            let flags = clock_flags(&event);
            ordered.accepted.push(AcceptedEvent { event, flags });
        } else if event.sequence <= last {
            if !is_purged(event.id, now) {
                let flags = clock_flags(&event).union(EntryFlags::SEQUENCE_REUSED);
                ordered.accepted.push(AcceptedEvent { event, flags });
            }
        } else {
            let queue = waiting.entry(producer.clone()).or_default();
            if let Some(same_sequence) = queue.insert(event.sequence, event) {
                ordered.deferred.push(same_sequence.id);
            }
            let last = last_sequences.entry(producer).or_insert(0);
            while let Some(event) = queue.remove(&(*last + 1)) {
                *last += 1;
                let flags = clock_flags(&event);
                ordered.accepted.push(AcceptedEvent { event, flags });
            }
        }
    }
    let without_predecessor = waiting.into_values().flatten();
    ordered.deferred.extend(without_predecessor.map(|(_, event)| event.id));
    ordered
}

/// True if the event is so old, by the time in its `UUIDv7`, that its entry may have been purged.
fn is_purged(event_id: Uuid, now: OffsetDateTime) -> bool {
    let created_at = event_id.get_timestamp().map_or(0, |it| it.to_unix().0);
    let created_at = i64::try_from(created_at).unwrap_or(0);
    created_at < (now - PURGED_AFTER).unix_timestamp()
}

#[cfg(test)]
mod tests {
    use api::event::Envelope;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(NOW.try_into().unwrap()).unwrap()
    }

    fn producer(org_id: u128) -> Producer {
        Producer { org_id: Uuid::from_u128(org_id), source: "project".to_owned() }
    }

    /// A new event of a producer.
    fn event(org_id: u128, sequence: i64, id: u128) -> IncomingEvent {
        let time = uuid::Timestamp::from_unix(uuid::NoContext, NOW, 0);
        let Producer { org_id, source } = producer(org_id);
        IncomingEvent {
            id: Uuid::from_u128(Uuid::new_v7(time).as_u128() >> 32 << 32 | id),
            source,
            org_id,
            sequence,
            bytes: vec![],
            envelope: Envelope::default(),
        }
    }

    fn sequences(ordered: &OrderedBatch) -> Vec<i64> {
        ordered.accepted.iter().map(|it| it.event.sequence).collect()
    }

    /// G-04, AU-16: events of a producer are accepted as 1, 2, 3, … in any order of delivery; an event whose
    /// predecessor is missing is deferred.
    #[test]
    fn events_of_a_producer_are_accepted_in_order_and_without_gaps() {
        let mut last = LastSequences::new();
        let batch =
            vec![event(1, 3, 3), event(1, 1, 1), event(2, 1, 9), event(1, 5, 5), event(1, 2, 2)];
        let ordered = order_batch(batch, &mut last, &BTreeSet::new(), now());
        assert_eq!(sequences(&ordered), [1, 1, 2, 3]);
        assert_eq!(ordered.deferred.len(), 1);
        let batch = vec![event(1, 5, 5), event(1, 4, 4)];
        let ordered = order_batch(batch, &mut last, &BTreeSet::new(), now());
        assert_eq!(sequences(&ordered), [4, 5]);
        assert!(ordered.deferred.is_empty());
    }

    /// G-02: an event that is in the log, or twice in a batch, is not accepted again.
    #[test]
    fn an_event_is_accepted_once() {
        let mut last = LastSequences::from([(producer(1), 2)]);
        let old = event(1, 2, 2);
        let new = event(1, 3, 3);
        let logged = BTreeSet::from([old.id]);
        let ordered = order_batch(vec![old, new.clone(), new], &mut last, &logged, now());
        assert_eq!(sequences(&ordered), [3]);
        assert!(ordered.deferred.is_empty());
    }

    /// A service whose database was restored reuses sequence numbers: its new events are accepted and
    /// flagged. An event that is old enough to have been purged is not accepted as new.
    #[test]
    fn a_reused_sequence_number_is_accepted_and_flagged() {
        let mut last = LastSequences::from([(producer(1), 2)]);
        let reused = event(1, 2, 7);
        let purged = IncomingEvent { id: Uuid::from_u128(5), ..event(1, 1, 0) };
        let ordered = order_batch(vec![reused, purged], &mut last, &BTreeSet::new(), now());
        assert_eq!(ordered.accepted.len(), 1);
        assert_eq!(ordered.accepted[0].flags.names(), ["SEQUENCE_REUSED"]);
    }
}
