//! Entries as events of the Open Cybersecurity Schema Framework 1.4, class API Activity (6003). Attributes
//! without a value are left out: the schema has no empty addresses. What the class has no attribute for is in
//! `unmapped`, so that every field of every event is in the file.

use std::net::IpAddr;

use api::{
    audit::FieldChange,
    event::{Activity, ActorKind, Envelope, Outcome},
};
use chassis::email;
use data_encoding::HEXLOWER;
use serde_json::{Map, Value, json};

use super::record::Record;

/// Class API Activity.
const CLASS_UID: i32 = 6003;

/// Converts an entry to an API Activity event.
pub(super) fn event(record: &Record) -> Value {
    let Record { entry, envelope, activity, .. } = record;
    let (activity_id, activity_name) = activity_of(*activity);
    let origin = envelope.origin.clone().unwrap_or_default();
    let (status_id, status) = match envelope.outcome() {
        Outcome::Denied | Outcome::Failed => (2, "Failure"),
        Outcome::Success | Outcome::Unspecified => (1, "Success"),
    };
    // An event without a call follows from another event: its operation is the action.
    let operation = if origin.method.is_empty() { &entry.action } else { &origin.method };
    let event = json!({
        "category_uid": 6,
        "category_name": "Application Activity",
        "class_uid": CLASS_UID,
        "class_name": "API Activity",
        "activity_id": activity_id,
        "activity_name": activity_name,
        "type_uid": CLASS_UID * 100 + activity_id,
        "type_name": format!("API Activity: {activity_name}"),
        "severity_id": 1,
        "severity": "Informational",
        "status_id": status_id,
        "status": status,
        "status_detail": envelope.reason,
        "time": milliseconds(envelope.occur_time),
        "metadata": {
            "version": "1.4.0",
            "uid": envelope.id,
            "event_code": entry.action,
            "sequence": entry.index,
            "logged_time": milliseconds(entry.receive_time),
            "tenant_uid": envelope.org_id,
            "product": {
                "name": "Tenantry",
                "vendor_name": "Tenantry",
                "feature": { "name": envelope.source },
            },
        },
        "actor": actor(envelope),
        "api": {
            "operation": operation,
            "request": { "uid": origin.request_id },
            "service": { "name": envelope.source },
        },
        "resources": [resource(envelope)],
        "src_endpoint": source_endpoint(envelope),
        "http_request": { "user_agent": origin.user_agent },
        "unmapped": unmapped(record),
    });
    let mut event = without_empty(event).unwrap_or_default();
    // The fields of the event as they are, also those without a value.
    if let Some(unmapped) = event["unmapped"].as_object_mut() {
        unmapped.insert("event".to_owned(), record.event.clone());
    }
    event
}

/// Number and name of an activity in the schema.
fn activity_of(activity: Activity) -> (i32, &'static str) {
    match activity {
        Activity::Create => (1, "Create"),
        Activity::Read => (2, "Read"),
        Activity::Update => (3, "Update"),
        Activity::Delete => (4, "Delete"),
        Activity::Other | Activity::Unspecified => (99, "Other"),
    }
}

fn actor(envelope: &Envelope) -> Value {
    let actor = envelope.actor.clone().unwrap_or_default();
    // `type_id` of a user: 1 User, 3 System, 0 Unknown.
    let type_id = match actor.kind() {
        ActorKind::User | ActorKind::ApiKey => 1,
        ActorKind::System => 3,
        ActorKind::Anonymous | ActorKind::Unspecified => 0,
    };
    let is_known = !actor.id.is_empty() || !actor.name.is_empty();
    let email_address = email::parse(&actor.email).map(|it| it.canonical);
    let user = json!({
        "uid": actor.id, "name": actor.name, "email_addr": email_address, "type_id": type_id,
    });
    json!({
        "user": is_known.then_some(user),
        "invoked_by": (!is_known).then_some("anonymous"),
        "session": { "uid": actor.credential_id },
    })
}

fn resource(envelope: &Envelope) -> Value {
    let resource = envelope.resource.clone().unwrap_or_default();
    let is_known = !resource.id.is_empty() || !resource.name.is_empty();
    // The schema wants a name or an id.
    let name = if is_known { resource.name } else { resource.kind.clone() };
    json!({ "type": resource.kind, "uid": resource.id, "name": name })
}

/// The network address of the caller. Without one, or after its erasure, the service that wrote the event.
fn source_endpoint(envelope: &Envelope) -> Value {
    let address = envelope.origin.as_ref().map(|it| it.address.as_str()).unwrap_or_default();
    match address.parse::<IpAddr>() {
        Ok(address) => json!({ "ip": address.to_string() }),
        Err(_) => json!({ "svc_name": envelope.source, "name": address }),
    }
}

/// Everything that the class has no attribute for, but for the fields of the event.
fn unmapped(record: &Record) -> Value {
    let Record { entry, envelope, .. } = record;
    let actor = envelope.actor.clone().unwrap_or_default();
    let change =
        |it: &FieldChange| json!({ "field": it.field, "before": it.before, "after": it.after });
    json!({
        "project_id": envelope.project_id,
        "environment_id": envelope.environment_id,
        "parent_event_id": envelope.parent_event_id,
        "outcome": envelope.outcome().as_str_name().trim_start_matches("OUTCOME_"),
        "actor_kind": actor.kind().as_str_name().trim_start_matches("ACTOR_KIND_"),
        "actor_email": actor.email,
        "source_sequence": envelope.sequence,
        "traceparent": envelope.origin.as_ref().map(|it| it.traceparent.clone()),
        "flags": entry.flags,
        "leaf_hash": HEXLOWER.encode(&entry.leaf_hash),
        "changes": entry.changes.iter().map(change).collect::<Vec<_>>(),
    })
}

/// The value without empty texts, lists and objects; `None` if nothing is left.
fn without_empty(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::String(text) => (!text.is_empty()).then_some(Value::String(text)),
        Value::Array(items) => {
            let items: Vec<_> = items.into_iter().filter_map(without_empty).collect();
            (!items.is_empty()).then_some(Value::Array(items))
        }
        Value::Object(fields) => {
            let kept = fields.into_iter().filter_map(|(key, it)| Some((key, without_empty(it)?)));
            let kept: Map<_, _> = kept.collect();
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        other => Some(other),
    }
}

fn milliseconds(timestamp: Option<prost_types::Timestamp>) -> i64 {
    timestamp.map(|it| it.seconds * 1_000 + i64::from(it.nanos) / 1_000_000).unwrap_or_default()
}
