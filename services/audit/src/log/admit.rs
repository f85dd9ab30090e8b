//! Which of the events that arrived are next: each once, in the order of its producer, none without the one
//! before it (G-02, G-04).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::Flags;
use crate::arrival::Arrival;

/// A producer in one organization.
pub(crate) type Lane = (Uuid, String);

/// An event older than this that is not found was purged; a younger one was never there.
const PURGED_AFTER: Duration = Duration::days(30);
/// How far clocks may differ.
const SKEW_MAX: Duration = Duration::seconds(5);

/// What becomes of a batch.
#[derive(Default)]
pub(crate) struct Admitted {
    /// New leaves, in their order.
    pub(crate) leaves: Vec<(Arrival, Flags)>,
    /// Those that wait for one before them.
    pub(crate) held: Vec<Uuid>,
}

/// Sorts a batch out. `last` is the newest number of each lane and is moved on; `known` are the events of
/// this batch that are in the log already.
pub(crate) fn admit(
    batch: Vec<Arrival>,
    last: &mut HashMap<Lane, i64>,
    known: &BTreeSet<Uuid>,
    now: OffsetDateTime,
) -> Admitted {
    let (mut admitted, mut seen) = (Admitted::default(), known.clone());
    let mut waiting: HashMap<Lane, BTreeMap<i64, Arrival>> = HashMap::new();
    let skewed = |it: &Arrival| if it.skew(now) > SKEW_MAX { Flags::CLOCK_SKEW } else { Flags(0) };
    for arrival in batch {
        if !seen.insert(arrival.id) {
            continue;
        }
        let lane = (arrival.org_id, arrival.source.clone());
        let reached = last.get(&lane).copied().unwrap_or(0);
        if arrival.sequence == 0 {
            let flags = skewed(&arrival);
            admitted.leaves.push((arrival, flags));
        } else if arrival.sequence <= reached {
            if !is_old(arrival.id, now) {
                let flags = skewed(&arrival).and(Flags::SEQUENCE_REUSED);
                admitted.leaves.push((arrival, flags));
            }
        } else {
            let queue = waiting.entry(lane.clone()).or_default();
            if let Some(twice) = queue.insert(arrival.sequence, arrival) {
                admitted.held.push(twice.id);
            }
            let reached = last.entry(lane).or_insert(0);
            while let Some(next) = queue.remove(&(*reached + 1)) {
                *reached += 1;
                let flags = skewed(&next);
                admitted.leaves.push((next, flags));
            }
        }
    }
    admitted.held.extend(waiting.into_values().flatten().map(|it| it.1.id));
    admitted
}

fn is_old(id: Uuid, now: OffsetDateTime) -> bool {
    let made = id.get_timestamp().map_or(0, |it| it.to_unix().0);
    let made = i64::try_from(made).unwrap_or(0);
    made < (now - PURGED_AFTER).unix_timestamp()
}

#[cfg(test)]
mod tests {
    use api::event::Envelope;

    use super::*;

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
    }

    /// An event of a lane, made just now.
    fn event(lane: u128, sequence: i64, id: u128) -> Arrival {
        let time = uuid::Timestamp::from_unix(uuid::NoContext, 1_800_000_000, 0);
        let id = Uuid::from_u128(Uuid::new_v7(time).as_u128() >> 32 << 32 | id);
        let (source, org_id) = ("project".to_owned(), Uuid::from_u128(lane));
        Arrival { id, source, org_id, sequence, bytes: vec![], envelope: Envelope::default() }
    }

    fn sequences(admitted: &Admitted) -> Vec<i64> {
        admitted.leaves.iter().map(|it| it.0.sequence).collect()
    }

    /// G-04, AU-16: whatever the order of arrival, a lane is admitted 1, 2, 3, …; what comes too early waits.
    #[test]
    fn a_lane_is_admitted_in_order_and_without_gaps() {
        let mut last = HashMap::new();
        let batch =
            vec![event(1, 3, 3), event(1, 1, 1), event(2, 1, 9), event(1, 5, 5), event(1, 2, 2)];
        let admitted = admit(batch, &mut last, &BTreeSet::new(), now());
        assert_eq!(sequences(&admitted), [1, 1, 2, 3]);
        assert_eq!(admitted.held.len(), 1);
        let admitted =
            admit(vec![event(1, 5, 5), event(1, 4, 4)], &mut last, &BTreeSet::new(), now());
        assert_eq!(sequences(&admitted), [4, 5]);
        assert!(admitted.held.is_empty());
    }

    /// G-02: what is known, or comes twice in one batch, is no second leaf.
    #[test]
    fn an_event_is_admitted_once() {
        let mut last = HashMap::from([((Uuid::from_u128(1), "project".to_owned()), 2)]);
        let (old, new) = (event(1, 2, 2), event(1, 3, 3));
        let known = BTreeSet::from([old.id]);
        let admitted = admit(vec![old, new.clone(), new], &mut last, &known, now());
        assert_eq!(sequences(&admitted), [3]);
        assert!(admitted.held.is_empty());
    }

    /// A service whose database went back uses numbers again: nothing is lost, and the entries say so. What
    /// is so old that it was purged is not taken for new.
    #[test]
    fn a_number_that_is_used_again_is_kept_and_flagged() {
        let mut last = HashMap::from([((Uuid::from_u128(1), "project".to_owned()), 2)]);
        let other = event(1, 2, 7);
        let purged = Arrival { id: Uuid::from_u128(5), ..event(1, 1, 0) };
        let admitted = admit(vec![other, purged], &mut last, &BTreeSet::new(), now());
        assert_eq!(admitted.leaves.len(), 1);
        assert_eq!(admitted.leaves[0].1.words(), ["SEQUENCE_REUSED"]);
    }
}
