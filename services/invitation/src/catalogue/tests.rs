//! The catalogue: every event that it names is one, and is told.

use api::event::{Actor, Envelope, Resource};
use prost_reflect::{DescriptorPool, DynamicMessage, Kind as FieldKind, Value};

use super::*;

/// A message in which everything is filled in, with a word by which it is found again.
fn full(pool: &DescriptorPool, name: &str, depth: u8) -> DynamicMessage {
    let descriptor = pool.get_message_by_name(name).unwrap();
    let mut message = DynamicMessage::new(descriptor.clone());
    for field in descriptor.fields() {
        // Of several that exclude each other, the first.
        if field.containing_oneof().is_some_and(|it| it.fields().next() != Some(field.clone())) {
            continue;
        }
        let text = if field.name().ends_with("_id") || field.name() == "id" {
            Uuid::from_u128(7).to_string()
        } else {
            format!("the-{}", field.name().replace('_', "-"))
        };
        let value = match field.kind() {
            FieldKind::String => Value::String(text),
            FieldKind::Bool => Value::Bool(false),
            FieldKind::Int32 => Value::I32(1),
            FieldKind::Int64 => Value::I64(1),
            FieldKind::Enum(_) => Value::EnumNumber(2),
            FieldKind::Message(inner) if depth < 3 => {
                Value::Message(full(pool, inner.full_name(), depth + 1))
            }
            _ => continue,
        };
        let value = if field.is_list() { Value::List(vec![value]) } else { value };
        message.set_field(&field, value);
    }
    message
}

fn envelope(pool: &DescriptorPool, event: &str) -> Envelope {
    let body = prost::Message::encode_to_vec(&full(pool, event, 0));
    let any = prost_types::Any { type_url: format!("/{event}"), value: body };
    Envelope {
        id: Uuid::from_u128(1).to_string(),
        org_id: Uuid::from_u128(2).to_string(),
        event: Some(any),
        actor: Some(Actor { name: "Ann".to_owned(), ..Actor::default() }),
        resource: Some(Resource { kind: "thing".to_owned(), ..Resource::default() }),
        ..Envelope::default()
    }
}

/// Every kind comes from an event of the contract, and that event is told with a title, a body and somebody
/// to hear it.
#[test]
fn every_kind_is_told() {
    let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
    for kind in KINDS {
        if kind.name == "subscription.changed" {
            continue; // Told when it matters; below.
        }
        let stories = tell(&envelope(&pool, kind.event));
        let story = stories.iter().find(|it| it.kind.name == kind.name);
        let story = story.unwrap_or_else(|| panic!("{} is not told", kind.name));
        assert!(!story.title.is_empty() && !story.body.is_empty(), "{story:?}");
        assert_ne!(story.audience, Audience::default(), "{story:?}");
        assert!(story.title.len() < 120, "{story:?}");
    }
    let names: Vec<_> = KINDS.iter().map(|it| it.name).collect();
    assert!(names.is_sorted(), "by name, so that people find them");
}

/// NO-16: no message of a person, no hint of a key, no path of an address goes out.
#[test]
fn nothing_secret_is_told() {
    let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
    for event in events() {
        for story in tell(&envelope(&pool, &event)) {
            for format in 0..=4 {
                let body = crate::webhook::format::body(&story, format);
                for secret in ["the-message", "the-hint", "the-url", "the-token", "the-secret"] {
                    let found = body.contains(secret) && story.kind.name != "deploy.completed";
                    assert!(!found, "{body}");
                }
            }
        }
    }
}

/// A subscription is told of when it goes bad, and when it is well again.
#[test]
fn a_subscription_is_told_of_when_it_matters() {
    use api::identity::{Organization, Subscription, SubscriptionChanged};
    let told = |before: Subscription, after: Subscription| {
        let of =
            |it: Subscription| Some(Organization { subscription: it.into(), ..Default::default() });
        let event = SubscriptionChanged { before: of(before), after: of(after) };
        let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
        let mut it = envelope(&pool, "tenantry.identity.v1.SubscriptionChanged");
        it.event.as_mut().unwrap().value = prost::Message::encode_to_vec(&event);
        tell(&it).pop().map(|it| it.severity)
    };
    assert_eq!(told(Subscription::Active, Subscription::PastDue), Some(S::Warning));
    assert_eq!(told(Subscription::PastDue, Subscription::Blocked), Some(S::Critical));
    assert_eq!(told(Subscription::Blocked, Subscription::Active), Some(S::Info));
    assert_eq!(told(Subscription::Trialing, Subscription::Active), None);
}
