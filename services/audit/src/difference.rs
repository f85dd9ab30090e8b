//! What differs between `before` and `after` of an event, field by field.

use std::collections::BTreeMap;

use api::audit::FieldChange;
use prost_reflect::{DescriptorPool, DynamicMessage};
use prost_types::Any;
use serde_json::Value;

/// Fields that change with every change and tell nothing.
const BOOKKEEPING: [&str; 3] = ["update_time", "etag", "revision"];

/// The fields that an event changed, by path. None if it is of a type that this version does not know.
pub(crate) fn changes(pool: &DescriptorPool, event: &Any) -> Vec<FieldChange> {
    let name = event.type_url.rsplit('/').next().unwrap_or_default();
    let Some(descriptor) = pool.get_message_by_name(name) else { return vec![] };
    let Ok(event) = DynamicMessage::decode(descriptor, &*event.value) else { return vec![] };
    let (before, after) = (side(&event, "before"), side(&event, "after"));
    if before.is_empty() && after.is_empty() {
        return vec![];
    }
    let mut fields: Vec<&String> = before.keys().chain(after.keys()).collect();
    fields.sort();
    fields.dedup();
    let text = |it: Option<&Value>| it.map(ToString::to_string).unwrap_or_default();
    let changed = fields.into_iter().filter(|it| before.get(*it) != after.get(*it));
    let change = |field: &String| FieldChange {
        field: field.clone(),
        before: text(before.get(field)),
        after: text(after.get(field)),
    };
    changed.map(change).collect()
}

/// The fields of one side, flat.
fn side(event: &DynamicMessage, name: &str) -> BTreeMap<String, Value> {
    let options = prost_reflect::SerializeOptions::new().use_proto_field_name(true);
    let mut fields = BTreeMap::new();
    let given = event.has_field_by_name(name).then(|| event.get_field_by_name(name)).flatten();
    let json = given
        .as_ref()
        .and_then(|it| it.as_message())
        .and_then(|it| it.serialize_with_options(serde_json::value::Serializer, &options).ok());
    if let Some(json) = json {
        flatten("", json, &mut fields);
    }
    fields
}

fn flatten(path: &str, value: Value, to: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if !BOOKKEEPING.contains(&name.as_str()) {
                    let path = if path.is_empty() { name } else { format!("{path}.{name}") };
                    flatten(&path, value, to);
                }
            }
        }
        other => {
            to.insert(path.to_owned(), other);
        }
    }
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
