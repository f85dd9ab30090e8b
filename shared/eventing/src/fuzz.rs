//! Fuzz target: envelopes from other services.

#[path = "../../../tests/fuzz/input.rs"]
#[expect(dead_code, reason = "each target needs a part of it")]
mod input;

use api::event::Envelope;
use bolero::check;
use prost::Message;
use uuid::Uuid;

use self::input::Input;
use crate::delivery::Delivery;

/// An envelope that is malformed or names another source has no event type, so no reaction handles it.
#[test]
fn a_delivery_names_its_own_source_or_has_no_event_type() {
    let envelope = |source: &str| {
        let (id, org_id) = (Uuid::from_u128(1).to_string(), Uuid::from_u128(2).to_string());
        let event = prost_types::Any { type_url: "/tenantry.x.v1.Y".to_owned(), value: vec![1] };
        let source = source.to_owned();
        Envelope { id, org_id, source, event: Some(event), ..Default::default() }.encode_to_vec()
    };
    let samples = [envelope("project"), envelope("identity")];
    check!().with_type::<Input>().for_each(|input| {
        let bytes = input.bytes(&samples);
        let delivery = Delivery::of("project", bytes.clone());
        assert_eq!((&*delivery.source, &delivery.envelope), ("project", &bytes));
        let named_source = Envelope::decode(&*bytes).map(|it| it.source).unwrap_or_default();
        assert!(named_source == "project" || delivery.event_type.is_empty());
        assert_eq!(Delivery::of("project", bytes).id, delivery.id);
    });
}
