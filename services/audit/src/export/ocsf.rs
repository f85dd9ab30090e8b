//! Entries in the fields of the Open Cybersecurity Schema Framework 1.4: API Activity (6003).

use api::{
    audit::Entry,
    event::{ActorKind, Envelope, Outcome},
};
use serde_json::{Value, json};

/// One entry as an API Activity event.
pub(crate) fn entry(entry: &Entry) -> Value {
    let it = entry.envelope.clone().unwrap_or_default();
    let activity = activity(&entry.action);
    let (status_id, status) = match it.outcome() {
        Outcome::Denied | Outcome::Failed => (2, "Failure"),
        Outcome::Success | Outcome::Unspecified => (1, "Success"),
    };
    json!({
        "category_uid": 6,
        "category_name": "Application Activity",
        "class_uid": 6003,
        "class_name": "API Activity",
        "activity_id": activity,
        "type_uid": 600_300 + activity,
        "severity_id": 1,
        "status_id": status_id,
        "status": status,
        "status_detail": it.reason,
        "time": milliseconds(it.occur_time),
        "metadata": {
            "version": "1.4.0",
            "uid": it.id,
            "event_code": entry.action,
            "sequence": entry.index,
            "logged_time": milliseconds(entry.receive_time),
            "tenant_uid": it.org_id,
            "product": { "name": "Tenantry", "vendor_name": "Tenantry", "feature": { "name": it.source } },
        },
        "actor": actor(&it),
        "api": {
            "operation": it.origin.as_ref().map(|it| it.method.clone()).unwrap_or_default(),
            "request": { "uid": it.origin.as_ref().map(|it| it.request_id.clone()).unwrap_or_default() },
            "service": { "name": it.source },
        },
        "resources": [resource(&it)],
        "src_endpoint": { "ip": it.origin.as_ref().map(|it| it.address.clone()).unwrap_or_default() },
        "http_request": {
            "user_agent": it.origin.as_ref().map(|it| it.user_agent.clone()).unwrap_or_default(),
        },
        "unmapped": {
            "project_id": it.project_id,
            "environment_id": it.environment_id,
            "parent_event_id": it.parent_event_id,
            "leaf_hash": data_encoding::HEXLOWER.encode(&entry.leaf_hash),
        },
    })
}

/// 1 Create, 2 Read, 3 Update, 4 Delete, 99 other.
fn activity(action: &str) -> i64 {
    let verb = action.rsplit('.').next().unwrap_or_default();
    let ends = |words: &[&str]| words.iter().any(|it| verb.ends_with(it));
    if ends(&["created", "registered", "joined", "added", "granted", "attached", "accepted"]) {
        1
    } else if ends(&["revealed", "exported", "copied"]) {
        2
    } else if ends(&["deleted", "removed", "revoked", "destroyed", "detached", "left", "purged"]) {
        4
    } else if ends(&[
        "updated",
        "changed",
        "rotated",
        "transferred",
        "restored",
        "enabled",
        "disabled",
    ]) {
        3
    } else {
        99
    }
}

fn actor(it: &Envelope) -> Value {
    let actor = it.actor.clone().unwrap_or_default();
    let kind = match actor.kind() {
        ActorKind::User | ActorKind::ApiKey => 1,
        ActorKind::System => 3,
        ActorKind::Anonymous | ActorKind::Unspecified => 0,
    };
    json!({
        "user": { "uid": actor.id, "name": actor.name, "email_addr": actor.email, "type_id": kind },
        "session": { "uid": actor.credential_id },
    })
}

fn resource(it: &Envelope) -> Value {
    let resource = it.resource.clone().unwrap_or_default();
    json!({ "type": resource.kind, "uid": resource.id, "name": resource.name })
}

fn milliseconds(it: Option<prost_types::Timestamp>) -> i64 {
    it.map(|it| it.seconds * 1_000 + i64::from(it.nanos) / 1_000_000).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_an_activity() {
        assert_eq!(activity("member.joined"), 1);
        assert_eq!(activity("audit.exported"), 2);
        assert_eq!(activity("member.role_changed"), 3);
        assert_eq!(activity("environment.destroyed"), 4);
        assert_eq!(activity("deployment.started"), 99);
        let event = entry(&Entry { action: "team.deleted".to_owned(), ..Entry::default() });
        assert_eq!(event["type_uid"], 600_304);
    }
}
