//! Entries as events of the Open Cybersecurity Schema Framework 1.4, class API Activity (6003).

use api::{
    audit::Entry,
    event::{ActorKind, Envelope, Outcome},
};
use serde_json::{Value, json};

/// Class API Activity.
const CLASS_UID: i64 = 6003;

/// Activities of the class API Activity (`activity_id`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    Create = 1,
    Read = 2,
    Update = 3,
    Delete = 4,
    Other = 99,
}

/// Converts an entry to an API Activity event.
pub(super) fn event(entry: &Entry) -> Value {
    let envelope = entry.envelope.clone().unwrap_or_default();
    let origin = envelope.origin.clone().unwrap_or_default();
    let activity_id = Activity::of_action(&entry.action) as i64;
    let (status_id, status) = match envelope.outcome() {
        Outcome::Denied | Outcome::Failed => (2, "Failure"),
        Outcome::Success | Outcome::Unspecified => (1, "Success"),
    };
    json!({
        "category_uid": 6,
        "category_name": "Application Activity",
        "class_uid": CLASS_UID,
        "class_name": "API Activity",
        "activity_id": activity_id,
        "type_uid": CLASS_UID * 100 + activity_id,
        // Informational.
        "severity_id": 1,
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
        "actor": actor(&envelope),
        "api": {
            "operation": origin.method,
            "request": { "uid": origin.request_id },
            "service": { "name": envelope.source },
        },
        "resources": [resource(&envelope)],
        "src_endpoint": { "ip": origin.address },
        "http_request": {
            "user_agent": origin.user_agent,
        },
        "unmapped": {
            "project_id": envelope.project_id,
            "environment_id": envelope.environment_id,
            "parent_event_id": envelope.parent_event_id,
            "leaf_hash": data_encoding::HEXLOWER.encode(&entry.leaf_hash),
        },
    })
}

impl Activity {
    /// Derives the activity from the end of an action, which is a verb, such as `changed` in
    /// `member.role_changed`.
    fn of_action(action: &str) -> Self {
        const CREATE: [&str; 7] =
            ["created", "registered", "joined", "added", "granted", "attached", "accepted"];
        const READ: [&str; 3] = ["revealed", "exported", "copied"];
        const DELETE: [&str; 7] =
            ["deleted", "removed", "revoked", "destroyed", "detached", "left", "purged"];
        const UPDATE: [&str; 7] =
            ["updated", "changed", "rotated", "transferred", "restored", "enabled", "disabled"];
        let last_part = action.rsplit('.').next().unwrap_or_default();
        let ends_with = |verbs: &[&str]| verbs.iter().any(|it| last_part.ends_with(it));
        if ends_with(&CREATE) {
            Self::Create
        } else if ends_with(&READ) {
            Self::Read
        } else if ends_with(&DELETE) {
            Self::Delete
        } else if ends_with(&UPDATE) {
            Self::Update
        } else {
            Self::Other
        }
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
    json!({
        "user": { "uid": actor.id, "name": actor.name, "email_addr": actor.email, "type_id": type_id },
        "session": { "uid": actor.credential_id },
    })
}

fn resource(envelope: &Envelope) -> Value {
    let resource = envelope.resource.clone().unwrap_or_default();
    json!({ "type": resource.kind, "uid": resource.id, "name": resource.name })
}

fn milliseconds(timestamp: Option<prost_types::Timestamp>) -> i64 {
    timestamp.map(|it| it.seconds * 1_000 + i64::from(it.nanos) / 1_000_000).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_has_an_activity() {
        assert_eq!(Activity::of_action("member.joined"), Activity::Create);
        assert_eq!(Activity::of_action("audit.entries_exported"), Activity::Read);
        assert_eq!(Activity::of_action("member.role_changed"), Activity::Update);
        assert_eq!(Activity::of_action("environment.destroyed"), Activity::Delete);
        assert_eq!(Activity::of_action("deployment.started"), Activity::Other);
        let event = event(&Entry { action: "team.deleted".to_owned(), ..Entry::default() });
        assert_eq!(event["type_uid"], 600_304);
    }
}
