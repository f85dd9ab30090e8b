//! What differs between `before` and `after` of an event, field by field.

use api::audit::FieldChange;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, ReflectMessage, SerializeOptions,
};
use prost_types::Any;

/// Fields that change with every change and tell nothing.
const BOOKKEEPING: [&str; 3] = ["update_time", "etag", "revision"];

/// The fields that differ between `before` and `after` of an event, by path. None if it has only one of
/// them, or is of a type that this version does not know.
pub(crate) fn changes(pool: &DescriptorPool, event: &Any) -> Vec<FieldChange> {
    let name = event.type_url.rsplit('/').next().unwrap_or_default();
    let Some(descriptor) = pool.get_message_by_name(name) else { return vec![] };
    let sides = ["before", "after"].map(|it| descriptor.get_field_by_name(it));
    let [Some(before), Some(after)] = sides else { return vec![] };
    let Ok(event) = DynamicMessage::decode(descriptor, &*event.value) else { return vec![] };
    if !event.has_field(&before) || !event.has_field(&after) {
        return vec![];
    }
    let mut changes = vec![];
    let (before, after) = (event.get_field(&before), event.get_field(&after));
    if let (Some(before), Some(after)) = (before.as_message(), after.as_message()) {
        compare("", before, after, &mut changes);
    }
    changes
}

/// Compares two messages of one type, field by field; what is equal is never turned into text.
fn compare(path: &str, before: &DynamicMessage, after: &DynamicMessage, to: &mut Vec<FieldChange>) {
    for field in after.descriptor().fields() {
        let (old, new) = (before.get_field(&field), after.get_field(&field));
        if old == new || BOOKKEEPING.contains(&field.name()) {
            continue;
        }
        let at = if path.is_empty() {
            field.name().to_owned()
        } else {
            format!("{path}.{}", field.name())
        };
        // Times, masks and the like are told as a whole.
        let ours =
            matches!(field.kind(), Kind::Message(it) if it.full_name().starts_with("tenantry."));
        match (old.as_message(), new.as_message()) {
            (Some(old), Some(new)) if ours => compare(&at, old, new, to),
            _ => {
                let (before, after) = (text(before, &field), text(after, &field));
                to.push(FieldChange { field: at, before, after });
            }
        }
    }
}

/// One field as JSON; empty if it is not set.
fn text(message: &DynamicMessage, field: &FieldDescriptor) -> String {
    if !message.has_field(field) {
        return String::new();
    }
    let mut alone = DynamicMessage::new(message.descriptor());
    alone.set_field(field, message.get_field(field).into_owned());
    let options = SerializeOptions::new().use_proto_field_name(true);
    let json = alone.serialize_with_options(serde_json::value::Serializer, &options);
    json.ok().and_then(|it| it.get(field.name()).map(ToString::to_string)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use api::identity as pb;
    use prost::{Message, Name};

    use super::*;

    #[test]
    fn only_what_differs_is_told() {
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
        let changes = changes(&pool, &any);
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].field, "role");
        assert_eq!(changes[0].before, "\"ORG_ROLE_VIEWER\"");
        assert_eq!(changes[0].after, "\"ORG_ROLE_ADMIN\"");
    }
}
