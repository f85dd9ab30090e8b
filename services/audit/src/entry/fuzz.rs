//! Fuzz target: filters of entry lists.

use api::audit::EntryFilter;
use bolero::check;
use prost::Message;

use super::search::{EntryQuery, TimeRange, time_range};
use crate::fuzz_input::Input;

/// A filter is refused, or has a valid time range and at most one term of each kind; different filters have
/// different page tokens.
#[test]
fn a_filter_has_a_time_range_and_distinct_terms() {
    let text = |it: &str| it.to_owned();
    let full = EntryFilter {
        actor_id: text("ann"),
        action: text("member.*"),
        resource_type: text("member"),
        resource_id: text("0193"),
        environment_id: text("live"),
        text: text("Bob"),
        from: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        to: Some(prost_types::Timestamp { seconds: 2, nanos: 5 }),
        ..Default::default()
    };
    let samples = [full.encode_to_vec(), EntryFilter::default().encode_to_vec()];
    check!().with_type::<Input>().for_each(|input| {
        let Ok(filter) = EntryFilter::decode(&*input.bytes(&samples)) else { return };
        if let Ok(TimeRange { from: Some(from), to: Some(to) }) = time_range(&filter) {
            assert!(from < to);
        }
        let query = EntryQuery { filter: filter.clone(), ..EntryQuery::default() };
        let terms = query.term_queries();
        assert!(terms.len() <= 6);
        let mut kinds: Vec<_> = terms.iter().map(|it| it.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), terms.len());
        let other = EntryQuery { filter: full.clone(), ..EntryQuery::default() };
        assert_eq!(query.binding() == other.binding(), filter == full);
    });
}
