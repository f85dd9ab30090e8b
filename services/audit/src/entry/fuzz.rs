//! Fuzz target: filters of lists of entries.

use api::audit::EntryFilter;
use bolero::check;
use prost::Message;

use super::find::{Wanted, times};
use crate::fuzz_input::Input;

/// A filter is refused, or looks up each fact once; two filters that differ are bound to different pages.
#[test]
fn a_filter_becomes_facts_and_times() {
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
        if let Ok((Some(from), Some(to))) = times(&filter) {
            assert!(from < to);
        }
        let wanted = Wanted { filter: filter.clone(), ..Wanted::default() };
        let facts = wanted.facts();
        assert!(facts.len() <= 6);
        let mut kinds: Vec<_> = facts.iter().map(|it| it.0).collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), facts.len());
        let other = Wanted { filter: full.clone(), ..Wanted::default() };
        assert_eq!(wanted.binding() == other.binding(), filter == full);
    });
}
