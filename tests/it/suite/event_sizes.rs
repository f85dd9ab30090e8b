//! Every event of the contract at its largest size: all texts and lists at their declared bounds. A change
//! whose event does not fit into the log would always fail.

use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value,
};
use testkit::bounds::{Bounds, is_absent};

/// Builder of messages at their largest size; records fields without bounds.
#[derive(Default)]
pub(super) struct Largest {
    unbounded: std::collections::BTreeSet<String>,
}

impl Largest {
    pub(super) fn message(&mut self, descriptor: &MessageDescriptor) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        for field in descriptor.fields() {
            // The event in an envelope, whose size the caller adds.
            let kind = field.kind();
            let message_kind = kind.as_message();
            let is_event = message_kind.is_some_and(|it| it.full_name() == "google.protobuf.Any");
            if is_event || is_absent(&field) {
                continue;
            }
            let value = self.value(&field);
            // Of the fields of a oneof only the largest is set.
            let is_largest = field.containing_oneof().is_none_or(|oneof| {
                let others = oneof.fields().filter(|it| message.has_field(it));
                let size = |it: &FieldDescriptor, value: Value| {
                    let mut alone = DynamicMessage::new(descriptor.clone());
                    alone.set_field(it, value);
                    alone.encoded_len()
                };
                let other = others.map(|it| size(&it, message.get_field(&it).into_owned())).max();
                other.unwrap_or_default() < size(&field, value.clone())
            });
            if is_largest {
                message.set_field(&field, value);
            }
        }
        message
    }

    fn value(&mut self, field: &FieldDescriptor) -> Value {
        let bounds = Bounds::of(field);
        assert!(!field.is_map(), "{} is a map", field.full_name());
        if !field.is_list() {
            return self.single(field, &bounds);
        }
        let items = bounds.items();
        if items.is_none() {
            self.unbounded.insert(format!("{} (items)", field.full_name()));
        }
        Value::List(vec![self.single(field, &bounds); items.unwrap_or_default()])
    }

    /// The largest value of a field, or of an item of a list.
    fn single(&mut self, field: &FieldDescriptor, bounds: &Bounds) -> Value {
        match field.kind() {
            Kind::String => Value::String(bounds.text(field.is_list()).unwrap_or_else(|| {
                self.unbounded.insert(field.full_name().to_owned());
                String::new()
            })),
            Kind::Bytes => Value::Bytes(
                vec![
                    0;
                    bounds.bytes().unwrap_or_else(|| {
                        self.unbounded.insert(field.full_name().to_owned());
                        0
                    })
                ]
                .into(),
            ),
            Kind::Message(it) => Value::Message(self.message(&it)),
            Kind::Bool => Value::Bool(true),
            Kind::Enum(_) => Value::EnumNumber(i32::MAX),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(i32::MIN),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(i64::MIN),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(u32::MAX),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(u64::MAX),
            Kind::Double => Value::F64(f64::MAX),
            Kind::Float => Value::F32(f32::MAX),
        }
    }
}

/// All events of the contract.
pub(super) fn events(pool: &DescriptorPool) -> Vec<MessageDescriptor> {
    let action = pool.get_extension_by_name("tenantry.event.v1.action").unwrap();
    let of_events = |it: &MessageDescriptor| it.options().has_extension(&action);
    pool.all_messages().filter(of_events).collect()
}

#[test]
fn every_event_fits_into_the_log_at_its_largest() {
    let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
    let envelope = pool.get_message_by_name("tenantry.event.v1.Envelope").unwrap();
    let mut largest = Largest::default();
    let envelope_size = largest.message(&envelope).encoded_len();
    let mut sizes = vec![];
    for event in events(&pool) {
        let event_size = largest.message(&event).encoded_len();
        let url_size = "/".len() + event.full_name().len();
        // Three tags with lengths, of at most 4 bytes each: the `Any` in the envelope and its two fields.
        let size = envelope_size + event_size + url_size + 3 * 4;
        sizes.push((size, event.full_name().to_owned()));
    }
    let unbounded = largest.unbounded;
    assert!(unbounded.is_empty(), "fields of events without a bound: {unbounded:?}");
    sizes.sort();
    let too_long: Vec<_> =
        sizes.iter().filter(|it| it.0 > chassis::outbox::ENVELOPE_BYTES_MAX).collect();
    assert!(too_long.is_empty(), "events that can exceed the size limit: {too_long:#?}");
}
