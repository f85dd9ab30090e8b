//! Tests of sealing and opening leaves, and of erased people.

use api::{event, identity};
use eventing::Delivery;
use prost::Message;
use prost_reflect::{DescriptorPool, Kind};

use super::*;
use crate::decode::{IncomingEvent, LEAF_BYTES_MAX};

pub(super) const PSEUDONYM_KEY: Secret = [7; 32];

pub(super) fn personal_fields() -> PersonalFields {
    PersonalFields::load(api::DESCRIPTORS).unwrap()
}

fn any<E: prost::Name>(event: &E) -> prost_types::Any {
    prost_types::Any { type_url: E::type_url(), value: event.encode_to_vec() }
}

/// The event that `ann` removed the member `bob`.
pub(super) fn envelope(ann: Uuid, bob: Uuid) -> event::Envelope {
    let member = identity::Member {
        user_id: bob.to_string(),
        email: "bob@example.com".to_owned(),
        display_name: "Bob".to_owned(),
        ..Default::default()
    };
    let removed = identity::MemberRemoved { before: Some(member), ..Default::default() };
    event::Envelope {
        id: Uuid::from_u128(3).to_string(),
        resource: Some(event::Resource {
            kind: "member".to_owned(),
            id: bob.to_string(),
            name: "Bob".to_owned(),
        }),
        actor: Some(event::Actor {
            kind: event::ActorKind::User.into(),
            id: ann.to_string(),
            name: "Ann".to_owned(),
            email: "Ann@Example.com".to_owned(),
            ..Default::default()
        }),
        origin: Some(event::Origin {
            method: "m".to_owned(),
            address: "192.0.2.1".to_owned(),
            user_agent: "grpcurl".to_owned(),
            ..Default::default()
        }),
        event: Some(any(&removed)),
        ..Default::default()
    }
}

pub(super) fn keys_for(subjects: &Subjects) -> SubjectKeys {
    let mut keys = SubjectKeys::default();
    for (id, n) in subjects.all.iter().zip(1_u8..) {
        keys.insert(*id, [n; 32]);
    }
    keys
}

/// A-16, AU-4: no personal text is readable in a leaf. With all keys it opens; without the key of one person,
/// the texts of that person read `erased`.
#[test]
fn a_sealed_leaf_opens_only_with_the_keys_of_its_people() {
    let fields = personal_fields();
    let ann = Uuid::from_u128(1);
    let bob = Uuid::from_u128(2);
    let plain = envelope(ann, bob).encode_to_vec();
    let subjects = find_subjects(&fields, &PSEUDONYM_KEY, &plain).unwrap();
    assert!(subjects.all.contains(&ann) && subjects.all.contains(&bob));
    assert_eq!(subjects.addresses.len(), 2);
    let event_id = Uuid::from_u128(3);
    let subject_keys = keys_for(&subjects);
    let leaf = seal_envelope(&fields, &PSEUDONYM_KEY, event_id, &plain, &subject_keys).unwrap();
    let readable = String::from_utf8_lossy(&leaf).to_lowercase();
    for secret in ["ann", "bob", "example.com", "192.0.2.1", "grpcurl"] {
        assert!(!readable.contains(secret), "{secret} is readable");
    }
    assert_eq!(open_leaf(&fields, event_id, &leaf, &subject_keys).unwrap(), plain);
    assert_eq!(sealed_subjects(&fields, &leaf), BTreeSet::from([ann, bob]));
    let leaf_keys = subject_keys.of_leaf(&fields, event_id, &leaf);
    assert_eq!(leaf_keys.into_keys().collect::<Vec<_>>(), [ann, bob]);

    let only_ann = Subjects { all: BTreeSet::from([ann]), ..Subjects::default() };
    let opened = open_leaf(&fields, event_id, &leaf, &keys_for(&only_ann)).unwrap();
    let opened = event::Envelope::decode(&*opened).unwrap();
    assert_eq!(opened.actor.unwrap().name, "Ann");
    assert_eq!(opened.resource.unwrap().name, ERASED);
    let removed = identity::MemberRemoved::decode(&*opened.event.unwrap().value).unwrap();
    assert_eq!(removed.before.unwrap().email, ERASED);
}

/// A project whose name looks like a sealed or erased text is shown with that name.
#[test]
fn a_name_of_an_object_that_looks_sealed_is_shown() {
    let fields = personal_fields();
    let bob = Uuid::from_u128(2);
    let event_id = Uuid::from_u128(3);
    for name in [seal_text(&cipher(&[1; 32]), bob, "Bob"), ERASED.to_owned()] {
        let mut event = envelope(Uuid::from_u128(1), bob);
        let resource = event::Resource { kind: "project".to_owned(), id: bob.to_string(), name };
        event.resource = Some(resource);
        let plain = event.encode_to_vec();
        let keys = keys_for(&find_subjects(&fields, &PSEUDONYM_KEY, &plain).unwrap());
        let leaf = seal_envelope(&fields, &PSEUDONYM_KEY, event_id, &plain, &keys).unwrap();
        assert_eq!(open_leaf(&fields, event_id, &leaf, &keys).unwrap(), plain);
    }
}

/// The size of a leaf is bounded even if a personal field occurs many times: the payload of the event is
/// removed, while id, source and sequence number stay.
#[test]
fn an_event_whose_leaf_would_be_too_long_loses_its_payload() {
    let fields = personal_fields();
    let now = time::OffsetDateTime::UNIX_EPOCH;
    let mut envelope = envelope(Uuid::from_u128(1), Uuid::from_u128(2));
    envelope.source = "project".to_owned();
    envelope.sequence = 7;
    let repeated = event::Envelope { actor: envelope.actor.clone(), ..Default::default() };
    let bytes = [envelope.encode_to_vec(), repeated.encode_to_vec().repeat(500)].concat();
    let event = IncomingEvent::decode(&Delivery::of("project", bytes), now);
    assert!(event.bytes.len() < LEAF_BYTES_MAX);
    assert!(sealed_len_max(&fields, &event.bytes) > LEAF_BYTES_MAX);
    let id = event.id;
    let event = event.without_payload(now);
    assert!(sealed_len_max(&fields, &event.bytes) < LEAF_BYTES_MAX);
    assert_eq!(event.id, id);
    assert_eq!(event.sequence, 7);
    assert_eq!(event.source, "project");
    assert_eq!(event.envelope.actor.unwrap().name, "Ann");
}

/// everything that is not personal stays unchanged, including unknown fields and the order of fields.
#[test]
fn every_other_byte_stays_as_it_was_received() {
    let fields = personal_fields();
    let mut plain = vec![0xfa, 0x7f, 3, 1, 2, 3, 0xf5, 0x7f, 1, 2, 3, 4];
    let service = event::Actor {
        id: "identity".to_owned(),
        name: "the service".to_owned(),
        ..Default::default()
    };
    let impersonal = event::Envelope {
        source: "identity".to_owned(),
        actor: Some(service),
        ..Default::default()
    };
    plain.extend(impersonal.encode_to_vec());
    plain.extend([0xf0, 0x7f, 0xff, 0x01]);
    assert!(find_subjects(&fields, &PSEUDONYM_KEY, &plain).unwrap().all.is_empty());
    let leaf = seal_envelope(&fields, &PSEUDONYM_KEY, Uuid::nil(), &plain, &SubjectKeys::default());
    assert_eq!(leaf.unwrap(), plain);
    let truncated = &plain[..plain.len() - 1];
    assert!(find_subjects(&fields, &PSEUDONYM_KEY, truncated).is_none());
}

/// Fields whose names suggest personal data are marked as personal, or listed here as exceptions.
#[test]
fn every_personal_field_of_an_event_is_marked() {
    let exceptions =
        ["tenantry.project.v1.Server.address", "tenantry.identity.v1.DeletionPreview.display_name"];
    let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
    let fields = personal_fields();
    let events = pool.all_messages().filter(|it| {
        it.parent_file().name().ends_with("_events.proto")
            || it.full_name() == personal_fields::ENVELOPE
    });
    let mut messages: Vec<_> = events.collect();
    let mut seen = BTreeSet::new();
    while let Some(message) = messages.pop() {
        if !seen.insert(message.full_name().to_owned()) {
            continue;
        }
        for field in message.fields() {
            match field.kind() {
                Kind::Message(inner) if inner.full_name().starts_with("tenantry.") => {
                    messages.push(inner);
                }
                Kind::String => {
                    let personal_words =
                        ["email", "display_name", "user_agent", "recipients", "pusher"];
                    let sounds_personal = field.name() == "address"
                        || personal_words.iter().any(|it| field.name().contains(it));
                    let is_marked = fields
                        .rules_of(message.full_name())
                        .is_some_and(|it| it.contains_key(&field.number()));
                    let is_exception = exceptions.contains(&field.full_name());
                    assert!(
                        !sounds_personal || is_marked || is_exception,
                        "{} is not marked as personal",
                        field.full_name()
                    );
                }
                _ => {}
            }
        }
    }
    assert!(seen.len() > 100, "too few events were found");
}
