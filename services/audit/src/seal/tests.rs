//! Sealing leaves, opening them, and forgetting people.

use api::{event, identity};
use chassis::outbox::Delivery;
use prost::Message;
use prost_reflect::{DescriptorPool, Kind};

use super::*;
use crate::arrival::{Arrival, LEAF_BYTES_MAX};

pub(super) const KEY: Secret = [7; 32];

pub(super) fn plans() -> Plans {
    Plans::load(api::DESCRIPTORS).unwrap()
}

fn any<E: prost::Name>(event: &E) -> prost_types::Any {
    prost_types::Any { type_url: E::type_url(), value: event.encode_to_vec() }
}

/// An event about one person, done by another.
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

pub(super) fn keys_of(people: &People) -> BTreeMap<PersonId, Secret> {
    people.all.iter().zip(1_u8..).map(|(id, n)| (*id, [n; 32])).collect()
}

/// A-16, AU-4: nothing personal is readable in a leaf; with the keys all of it is, without one person's key
/// what is theirs is not.
#[test]
fn what_is_sealed_opens_with_the_keys_of_its_people_only() {
    let (plans, ann, bob) = (plans(), Uuid::from_u128(1), Uuid::from_u128(2));
    let plain = envelope(ann, bob).encode_to_vec();
    let people = people(&plans, &KEY, &plain).unwrap();
    assert!(people.all.contains(&ann) && people.all.contains(&bob));
    assert_eq!(people.addresses.len(), 2);
    let event_id = Uuid::from_u128(3);
    let persons = keys_of(&people);
    let leaf = seal(&plans, &KEY, event_id, &plain, &persons).unwrap();
    let readable = String::from_utf8_lossy(&leaf).to_lowercase();
    for secret in ["ann", "bob", "example.com", "192.0.2.1", "grpcurl"] {
        assert!(!readable.contains(secret), "{secret} can be read");
    }
    let mut keys: BTreeMap<_, _> =
        persons.iter().map(|it| (*it.0, leaf_key(it.1, event_id))).collect();
    assert_eq!(open(&plans, &leaf, |it| keys.get(&it).copied()).unwrap(), plain);
    assert_eq!(sealed_for(&plans, &leaf), BTreeSet::from([ann, bob]));

    keys.remove(&bob);
    let opened =
        event::Envelope::decode(&*open(&plans, &leaf, |it| keys.get(&it).copied()).unwrap())
            .unwrap();
    assert_eq!(opened.actor.unwrap().name, "Ann");
    assert_eq!(opened.resource.unwrap().name, ERASED);
    let told = identity::MemberRemoved::decode(&*opened.event.unwrap().value).unwrap();
    assert_eq!(told.before.unwrap().email, ERASED);
}

/// A project whose name looks sealed, or erased, is shown with that name.
#[test]
fn a_name_of_an_object_that_looks_sealed_is_shown() {
    let (plans, bob) = (plans(), Uuid::from_u128(2));
    for name in [seal_text(&[1; 32], bob, "Bob"), ERASED.to_owned()] {
        let mut it = envelope(Uuid::from_u128(1), bob);
        it.resource =
            Some(event::Resource { kind: "project".to_owned(), id: bob.to_string(), name });
        let plain = it.encode_to_vec();
        let persons = keys_of(&people(&plans, &KEY, &plain).unwrap());
        let leaf = seal(&plans, &KEY, Uuid::from_u128(3), &plain, &persons).unwrap();
        let key = |it| persons.get(&it).map(|it| leaf_key(it, Uuid::from_u128(3)));
        assert_eq!(open(&plans, &leaf, key).unwrap(), plain);
    }
}

/// A leaf fits, however many personal texts an event has: parts of a message may come many times, and each
/// is sealed. The event is cut, and keeps its place among those of its source.
#[test]
fn a_leaf_fits_whatever_is_sealed_in_it() {
    let (plans, now) = (plans(), time::OffsetDateTime::UNIX_EPOCH);
    let mut it = envelope(Uuid::from_u128(1), Uuid::from_u128(2));
    (it.source, it.sequence) = ("project".to_owned(), 7);
    let again = event::Envelope { actor: it.actor.clone(), ..Default::default() };
    let bytes = [it.encode_to_vec(), again.encode_to_vec().repeat(500)].concat();
    let arrival = Arrival::of(&Delivery::of("project", bytes), now);
    assert!(arrival.bytes.len() < LEAF_BYTES_MAX);
    assert!(sealed_len(&plans, &arrival.bytes) > LEAF_BYTES_MAX);
    let (id, cut) = (arrival.id, arrival.cut(now));
    assert!(sealed_len(&plans, &cut.bytes) < LEAF_BYTES_MAX);
    assert_eq!((cut.id, cut.sequence, &*cut.source), (id, 7, "project"));
    assert_eq!(cut.envelope.actor.unwrap().name, "Ann");
}

/// what is not personal stays as it was, also fields of a later version and fields in another order.
#[test]
fn every_other_byte_stays_as_it_was_received() {
    let plans = plans();
    let mut plain = vec![0xfa, 0x7f, 3, 1, 2, 3, 0xf5, 0x7f, 1, 2, 3, 4];
    let service = event::Actor {
        id: "identity".to_owned(),
        name: "the service".to_owned(),
        ..Default::default()
    };
    let quiet = event::Envelope {
        source: "identity".to_owned(),
        actor: Some(service),
        ..Default::default()
    };
    plain.extend(quiet.encode_to_vec());
    plain.extend([0xf0, 0x7f, 0xff, 0x01]);
    assert!(people(&plans, &KEY, &plain).unwrap().all.is_empty());
    assert_eq!(seal(&plans, &KEY, Uuid::nil(), &plain, &BTreeMap::new()).unwrap(), plain);
    assert!(people(&plans, &KEY, &plain[..plain.len() - 1]).is_none(), "no message");
}

/// Texts that look personal are marked as such, or are named here as being about machines.
#[test]
fn no_personal_field_of_an_event_is_forgotten() {
    let about_machines =
        ["tenantry.project.v1.Server.address", "tenantry.identity.v1.DeletionPreview.display_name"];
    let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
    let plans = plans();
    let events = pool.all_messages().filter(|it| {
        it.parent_file().name().ends_with("_events.proto") || it.full_name() == plan::ENVELOPE
    });
    let (mut messages, mut seen) = (events.collect::<Vec<_>>(), BTreeSet::new());
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
                    let suspicious =
                        ["email", "display_name", "user_agent", "recipients", "pusher"];
                    let address = field.name() == "address"
                        || suspicious.iter().any(|it| field.name().contains(it));
                    let marked = plans
                        .of(message.full_name())
                        .is_some_and(|it| it.contains_key(&field.number()));
                    let known = about_machines.contains(&field.full_name());
                    assert!(!address || marked || known, "{}", field.full_name());
                }
                _ => {}
            }
        }
    }
    assert!(seen.len() > 100, "the events were found");
}
