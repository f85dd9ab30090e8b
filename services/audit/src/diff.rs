//! Differences between `before` and `after` of an event, field by field.

use api::audit::FieldChange;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, SerializeOptions,
};
use prost_types::Any;

use crate::seal::wire::{WireField, take_field};

/// Fields that change with every write and are therefore omitted.
const OMITTED_FIELDS: [&str; 3] = ["update_time", "etag", "revision"];

/// Returns the fields that differ between `before` and `after` of an event, by path. Empty if the event lacks
/// one of the two, or if this version does not know its type.
pub(crate) fn changed_fields(pool: &DescriptorPool, event: &Any) -> Vec<FieldChange> {
    try_changed_fields(pool, event).unwrap_or_default()
}

/// Like [`changed_fields`]; `None` also if the event is malformed.
fn try_changed_fields(pool: &DescriptorPool, event: &Any) -> Option<Vec<FieldChange>> {
    let message_name = event.type_url.rsplit('/').next().unwrap_or_default();
    let descriptor = pool.get_message_by_name(message_name)?;
    let [before, after] = ["before", "after"].map(|name| descriptor.get_field_by_name(name));
    let (before, after) = (before?, after?);
    let Kind::Message(state) = after.kind() else { return None };
    let fields = EncodedFields::of(&event.value)?;
    let mut changes = vec![];
    let before = fields.message(before.number())?;
    compare_messages("", &state, &before, &fields.message(after.number())?, &mut changes)?;
    Some(changes)
}

/// Encoded fields of a message, sorted by number.
struct EncodedFields<'m>(Vec<WireField<'m>>);

impl<'m> EncodedFields<'m> {
    /// Splits a message into its fields; `None` if it is malformed.
    fn of(mut message: &'m [u8]) -> Option<Self> {
        let mut fields = vec![];
        while !message.is_empty() {
            fields.push(take_field(&mut message)?);
        }
        // Stable: the order of repeated fields counts.
        fields.sort_by_key(|it| it.number);
        Some(Self(fields))
    }

    /// Returns all occurrences of a field.
    fn get(&self, number: u32) -> &[WireField<'m>] {
        let first = self.0.partition_point(|it| it.number < number);
        let end = self.0.partition_point(|it| it.number <= number);
        &self.0[first..end]
    }

    /// Returns the numbers of the fields whose bytes differ, in ascending order.
    fn different(&self, other: &Self) -> Vec<u32> {
        let mut numbers: Vec<u32> = self.0.iter().chain(&other.0).map(|it| it.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.retain(|number| {
            let [old, new] = [self, other].map(|it| it.get(*number).iter().map(|it| it.bytes));
            !old.eq(new)
        });
        numbers
    }

    /// Returns the bytes of a field: all its occurrences, with their tags.
    fn bytes(&self, number: u32) -> Vec<u8> {
        self.get(number).iter().flat_map(|it| it.bytes).copied().collect()
    }

    /// Returns a field that is a message; `None` if it is not set. Several occurrences are merged.
    fn message(&self, number: u32) -> Option<Vec<u8>> {
        let payloads: Vec<&[u8]> = self.get(number).iter().filter_map(|it| it.payload).collect();
        (!payloads.is_empty()).then(|| payloads.concat())
    }
}

/// Compares two encoded messages of one type and appends their differences to `changes`. Only fields whose
/// bytes differ are decoded. `None` if one of them is malformed.
fn compare_messages(
    parent_path: &str,
    descriptor: &MessageDescriptor,
    before: &[u8],
    after: &[u8],
    changes: &mut Vec<FieldChange>,
) -> Option<()> {
    let before = EncodedFields::of(before)?;
    let after = EncodedFields::of(after)?;
    for number in before.different(&after) {
        let field = descriptor.get_field(number);
        let Some(field) = field.filter(|it| !OMITTED_FIELDS.contains(&it.name())) else {
            continue;
        };
        let path = if parent_path.is_empty() {
            field.name().to_owned()
        } else {
            format!("{parent_path}.{}", field.name())
        };
        match field.kind() {
            // Well-known types (timestamps, field masks) are compared as single values.
            Kind::Message(inner)
                if inner.full_name().starts_with("tenantry.")
                    && !field.is_list()
                    && !field.is_map() =>
            {
                let message = |it: &EncodedFields| it.message(number).unwrap_or_default();
                compare_messages(&path, &inner, &message(&before), &message(&after), changes)?;
            }
            _ => {
                let decode = |it: &EncodedFields| {
                    DynamicMessage::decode(descriptor.clone(), &*it.bytes(number)).ok()
                };
                let (before, after) = (decode(&before)?, decode(&after)?);
                // Two encodings can have one value.
                if before.get_field(&field) != after.get_field(&field) {
                    let [before, after] = [before, after].map(|it| field_json(&it, &field));
                    changes.push(FieldChange { field: path, before, after });
                }
            }
        }
    }
    Some(())
}

/// Formats the only field of a message as JSON; empty if it is not set.
fn field_json(message: &DynamicMessage, field: &FieldDescriptor) -> String {
    if !message.has_field(field) {
        return String::new();
    }
    let options = SerializeOptions::new().use_proto_field_name(true);
    let json = message.serialize_with_options(serde_json::value::Serializer, &options);
    json.ok().and_then(|it| it.get(field.name()).map(ToString::to_string)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use api::identity as pb;
    use prost::{Message, Name};

    use super::*;

    #[test]
    fn only_changed_fields_are_listed() {
        let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
        let member = |role: pb::OrgRole| pb::Member {
            user_id: "u".to_owned(),
            role: role.into(),
            ..Default::default()
        };
        let event = pb::MemberRoleChanged {
            before: Some(member(pb::OrgRole::Viewer)),
            after: Some(member(pb::OrgRole::Admin)),
            ..Default::default()
        };
        let any = Any { type_url: pb::MemberRoleChanged::type_url(), value: event.encode_to_vec() };
        let changes = changed_fields(&pool, &any);
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].field, "role");
        assert_eq!(changes[0].before, "\"ORG_ROLE_VIEWER\"");
        assert_eq!(changes[0].after, "\"ORG_ROLE_ADMIN\"");
    }
    /// Differences by comparison of the decoded messages.
    fn decoded_changes(before: &pb::Organization, after: &pb::Organization) -> Vec<String> {
        let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
        let descriptor = pool.get_message_by_name(&pb::Organization::full_name()).unwrap();
        let decode = |it: &pb::Organization| {
            DynamicMessage::decode(descriptor.clone(), &*it.encode_to_vec()).unwrap()
        };
        let (before, after) = (decode(before), decode(after));
        let fields = descriptor.fields();
        let changed = fields.filter(|it| before.get_field(it) != after.get_field(it));
        changed.map(|it| it.name().to_owned()).collect()
    }

    /// Added, removed and changed fields are found, also behind fields of another version. Another encoding
    /// of the same value is no difference.
    #[test]
    fn encoded_messages_differ_as_the_decoded_ones_do() {
        let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
        let before = pb::Organization {
            id: "o".to_owned(),
            name: "one".to_owned(),
            create_time: Some(prost_types::Timestamp { seconds: 5, nanos: 6 }),
            ..Default::default()
        };
        let after = pb::Organization {
            name: "two".to_owned(),
            slug: "s".to_owned(),
            create_time: None,
            ..before.clone()
        };
        let unknown = [0xfa, 0x7f, 1, 9];
        let payload = |state: &[u8], tag: u8| {
            let length = u8::try_from(state.len()).unwrap();
            [&[tag, length], state].concat()
        };
        let changed = |before: &[u8], after: &[u8]| {
            // The fields 1 and 2 of the event.
            let value = [payload(after, 0x12), payload(before, 0x0a)].concat();
            let any = Any { type_url: pb::OrganizationUpdated::type_url(), value };
            let changes = changed_fields(&pool, &any);
            changes.into_iter().map(|it| it.field).collect::<Vec<_>>()
        };
        let old = before.encode_to_vec();
        let new = after.encode_to_vec();
        let expected = decoded_changes(&before, &after);
        assert_eq!(expected, ["name", "slug", "create_time"]);
        assert_eq!(changed(&old, &[&unknown[..], &new].concat()), expected);
        assert_eq!(changed(&new, &old), expected);
        // Of two occurrences of the id, the last one counts.
        let id_twice = [&payload(b"x", 0x0a)[..], &old].concat();
        assert!(changed(&old, &id_twice).is_empty());
        assert!(changed(&old, &old[1..]).is_empty(), "malformed");
    }
}
