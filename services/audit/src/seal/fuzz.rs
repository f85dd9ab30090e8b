//! Fuzz targets: events on their way into the log, and leaves on their way out.

use api::event::Envelope;
use bolero::check;
use chassis::outbox::Delivery;
use prost::Message;
use time::OffsetDateTime;

use super::{
    tests::{KEY, envelope, keys_of, plans},
    *,
};
use crate::{
    arrival::{Arrival, LEAF_BYTES_MAX},
    facts::Actions,
    fuzz_input::Input,
};

/// Events of one service, with texts that look sealed or erased.
fn samples() -> Vec<Vec<u8>> {
    let (ann, bob) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let mut it = Envelope { source: "project".to_owned(), ..envelope(ann, bob) };
    let plain = it.encode_to_vec();
    let sealed = seal_text(&[1; 32], bob, "Bob");
    let resource = it.resource.as_mut().unwrap();
    (resource.kind, resource.name) = ("project".to_owned(), sealed.clone());
    let service = it.encode_to_vec();
    let actor = it.actor.as_mut().unwrap();
    (actor.id, actor.name, actor.email) = ("project".to_owned(), sealed, ERASED.to_owned());
    // Parts of an envelope may come many times, and each is sealed.
    let again = Envelope { actor: it.actor.clone(), ..Default::default() };
    let many = [plain.clone(), again.encode_to_vec().repeat(200)].concat();
    vec![plain, service, it.encode_to_vec(), many]
}

/// Whatever arrives becomes a leaf that is an event of its source and fits; with the keys of its people it
/// is again what arrived.
#[test]
fn what_arrives_is_sealed_and_opened_again() {
    let (plans, samples) = (plans(), samples());
    let actions = Actions::load(api::DESCRIPTORS).unwrap();
    let now = OffsetDateTime::UNIX_EPOCH;
    check!().with_type::<Input>().for_each(|input| {
        let bytes = input.bytes(&samples);
        let mut arrival = Arrival::of(&Delivery::of("project", bytes), now);
        let (id, sequence) = (arrival.id, arrival.sequence);
        if sealed_len(&plans, &arrival.bytes) > LEAF_BYTES_MAX {
            arrival = arrival.cut(now);
        }
        assert_eq!((arrival.id, arrival.sequence), (id, sequence), "its place stays");
        assert_eq!(arrival.source, "project");
        assert_eq!(arrival.envelope.source, "project");
        let facts = actions.facts(&arrival.envelope);
        assert!(!facts.all().any(|it| it.1.len() > LEAF_BYTES_MAX));
        let Some(people) = people(&plans, &KEY, &arrival.bytes) else { return };
        let persons = keys_of(&people);
        let leaf = seal(&plans, &KEY, arrival.id, &arrival.bytes, &persons).unwrap();
        assert!(leaf.len() <= LEAF_BYTES_MAX, "a leaf of {} bytes", leaf.len());
        assert!(leaf.len() <= sealed_len(&plans, &arrival.bytes));
        let open = open(&plans, &leaf, |it| persons.get(&it).map(|it| leaf_key(it, arrival.id)));
        let opened = Envelope::decode(&*open.unwrap()).unwrap();
        assert_eq!(opened, Envelope::decode(&*arrival.bytes).unwrap());
        assert!(sealed_for(&plans, &leaf).is_subset(&people.all));
    });
}

/// Leaves that were changed behind the log's back are opened, or not, without a panic.
#[test]
fn a_changed_leaf_does_no_harm() {
    let (plans, samples) = (plans(), samples());
    check!().with_type::<Input>().for_each(|input| {
        let leaf = input.bytes(&samples);
        for person in sealed_for(&plans, &leaf) {
            let _ = open(&plans, &leaf, |it| (it == person).then_some([1; 32]));
        }
        let _ = open(&plans, &leaf, |_| None);
    });
}
