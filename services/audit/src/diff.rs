//! Differences between `before` and `after` of an event, field by field.

use api::audit::FieldChange;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, ReflectMessage, SerializeOptions,
};
use prost_types::Any;

/// Fields that change with every write and are therefore omitted.
const OMITTED_FIELDS: [&str; 3] = ["update_time", "etag", "revision"];

/// Returns the fields that differ between `before` and `after` of an event, by path. Empty if the event lacks
/// one of the two, or if this version does not know its type.
pub(crate) fn changed_fields(pool: &DescriptorPool, event: &Any) -> Vec<FieldChange> {
    let message_name = event.type_url.rsplit('/').next().unwrap_or_default();
    let Some(descriptor) = pool.get_message_by_name(message_name) else { return vec![] };
    let fields = ["before", "after"].map(|name| descriptor.get_field_by_name(name));
    let [Some(before_field), Some(after_field)] = fields else { return vec![] };
    let Ok(event) = DynamicMessage::decode(descriptor, &*event.value) else { return vec![] };
    if !event.has_field(&before_field) || !event.has_field(&after_field) {
        return vec![];
    }
    let mut changes = vec![];
    let before = event.get_field(&before_field);
    let after = event.get_field(&after_field);
    if let (Some(before), Some(after)) = (before.as_message(), after.as_message()) {
        compare_messages("", before, after, &mut changes);
    }
    changes
}

/// Compares two messages of one type and appends their differences to `changes`. Only fields that differ are
/// formatted.
fn compare_messages(
    parent_path: &str,
    before: &DynamicMessage,
    after: &DynamicMessage,
    changes: &mut Vec<FieldChange>,
) {
    for field in after.descriptor().fields() {
        let old = before.get_field(&field);
        let new = after.get_field(&field);
        if old == new || OMITTED_FIELDS.contains(&field.name()) {
            continue;
        }
        let path = if parent_path.is_empty() {
            field.name().to_owned()
        } else {
            format!("{parent_path}.{}", field.name())
        };
        // Well-known types (timestamps, field masks) are compared as single values.
        let is_nested =
            matches!(field.kind(), Kind::Message(it) if it.full_name().starts_with("tenantry."));
        match (old.as_message(), new.as_message()) {
            (Some(old), Some(new)) if is_nested => compare_messages(&path, old, new, changes),
            _ => changes.push(FieldChange {
                field: path,
                before: field_json(before, &field),
                after: field_json(after, &field),
            }),
        }
    }
}

/// Formats one field as JSON; empty if it is not set.
fn field_json(message: &DynamicMessage, field: &FieldDescriptor) -> String {
    if !message.has_field(field) {
        return String::new();
    }
    let mut single_field = DynamicMessage::new(message.descriptor());
    single_field.set_field(field, message.get_field(field).into_owned());
    let options = SerializeOptions::new().use_proto_field_name(true);
    let json = single_field.serialize_with_options(serde_json::value::Serializer, &options);
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
}
