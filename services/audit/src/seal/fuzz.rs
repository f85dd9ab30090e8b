//! Fuzz targets: sealing of delivered events, and opening of modified leaves.

use api::event::Envelope;
use bolero::check;
use eventing::Delivery;
use prost::Message;
use time::OffsetDateTime;

use super::{
    tests::{PSEUDONYM_KEY, envelope, keys_for, personal_fields},
    *,
};
use crate::{
    decode::{IncomingEvent, LEAF_BYTES_MAX},
    fuzz_input::Input,
    search_index::ActionNames,
};

/// Events of one service, some with texts that look sealed or erased.
fn samples() -> Vec<Vec<u8>> {
    let ann = Uuid::from_u128(1);
    let bob = Uuid::from_u128(2);
    let mut event = Envelope { source: "project".to_owned(), ..envelope(ann, bob) };
    let about_member = event.encode_to_vec();
    let sealed = seal_text(&cipher(&[1; 32]), bob, "Bob");
    let resource = event.resource.as_mut().unwrap();
    resource.kind = "project".to_owned();
    resource.name = sealed.clone();
    let about_project = event.encode_to_vec();
    let actor = event.actor.as_mut().unwrap();
    actor.id = "project".to_owned();
    actor.name = sealed;
    actor.email = ERASED.to_owned();
    let by_service = event.encode_to_vec();
    // A field can occur many times, and each occurrence is sealed.
    let repeated = Envelope { actor: event.actor.clone(), ..Default::default() };
    let many = [about_member.clone(), repeated.encode_to_vec().repeat(200)].concat();
    vec![about_member, about_project, by_service, many]
}

/// Every delivery becomes a leaf of its source within the size limit; opened with the keys of its people, the
/// leaf equals the event.
#[test]
fn a_delivery_is_sealed_and_opens_to_the_same_event() {
    let fields = personal_fields();
    let samples = samples();
    let action_names = ActionNames::load(api::DESCRIPTORS).unwrap();
    let now = OffsetDateTime::UNIX_EPOCH;
    check!().with_type::<Input>().for_each(|input| {
        let bytes = input.bytes(&samples);
        let mut event = IncomingEvent::decode(&Delivery::of("project", bytes), now);
        let id = event.id;
        let sequence = event.sequence;
        if sealed_len_max(&fields, &event.bytes) > LEAF_BYTES_MAX {
            event = event.without_payload(now);
        }
        assert_eq!(event.id, id);
        assert_eq!(event.sequence, sequence);
        assert_eq!(event.source, "project");
        assert_eq!(event.envelope.source, "project");
        let terms = action_names.index_terms(&event.envelope);
        assert!(!terms.all().any(|it| it.value.len() > LEAF_BYTES_MAX));
        let Some(subjects) = find_subjects(&fields, &PSEUDONYM_KEY, &event.bytes) else { return };
        let keys = keys_for(&subjects);
        let leaf = seal_envelope(&fields, &PSEUDONYM_KEY, event.id, &event.bytes, &keys).unwrap();
        assert!(leaf.len() <= LEAF_BYTES_MAX, "a leaf of {} bytes", leaf.len());
        let len_max = sealed_len_max(&fields, &event.bytes);
        assert!(leaf.len() <= len_max);
        assert!(may_exceed(event.bytes.len(), len_max - 1), "{} to {len_max}", event.bytes.len());
        let opened = open_leaf(&fields, event.id, &leaf, &keys).unwrap();
        let original = Envelope::decode(&*event.bytes).unwrap();
        assert_eq!(Envelope::decode(&*opened).unwrap(), original);
        assert!(sealed_subjects(&fields, &leaf).is_subset(&subjects.all));
    });
}

/// Opening a modified leaf does not panic.
#[test]
fn a_modified_leaf_does_not_panic() {
    let fields = personal_fields();
    let samples = samples();
    check!().with_type::<Input>().for_each(|input| {
        let leaf = input.bytes(&samples);
        for subject in sealed_subjects(&fields, &leaf) {
            let mut keys = SubjectKeys::default();
            keys.insert(subject, [1; 32]);
            let _ = open_leaf(&fields, Uuid::nil(), &leaf, &keys);
        }
        let _ = open_leaf(&fields, Uuid::nil(), &leaf, &SubjectKeys::default());
    });
}
