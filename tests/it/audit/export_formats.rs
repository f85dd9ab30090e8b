//! Formats of exports against their specifications, and the log of a deleted organization.

use std::collections::BTreeMap;

use api::audit::{self as pb, ExportFormat};
use chassis::clock::Duration;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use testkit::{Suite, eventually};

use crate::support::{audit_client::AuditClient, raw, world::World};

/// The part of the published schema that exports use.
const SCHEMA: &str = include_str!("../../ocsf/api_activity-1.4.json");

/// Part of a schema of the Open Cybersecurity Schema Framework.
#[derive(Deserialize)]
struct Schema {
    class: Object,
    objects: BTreeMap<String, Object>,
    types: BTreeMap<String, Type>,
}

#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    at_least_one: Vec<String>,
    attributes: BTreeMap<String, Attribute>,
}

#[derive(Deserialize)]
struct Attribute {
    #[serde(rename = "type")]
    type_name: String,
    object: Option<String>,
    #[serde(default)]
    required: bool,
    #[serde(default)]
    array: bool,
    #[serde(default, rename = "enum")]
    values: Vec<String>,
}

#[derive(Deserialize)]
struct Type {
    #[serde(rename = "type")]
    base: Option<String>,
    regex: Option<String>,
    max_len: Option<usize>,
}

impl Schema {
    /// Violations of the class API Activity.
    fn violations(&self, event: &Value) -> Vec<String> {
        let mut found = vec![];
        self.check_object("", &self.class, event, &mut found);
        let number = |name: &str| event[name].as_i64().unwrap_or_default();
        if number("type_uid") != number("class_uid") * 100 + number("activity_id") {
            found.push("type_uid is not that of the activity".to_owned());
        }
        found
    }

    fn check_object(&self, path: &str, object: &Object, value: &Value, found: &mut Vec<String>) {
        let Some(fields) = value.as_object() else {
            found.push(format!("{path} is not an object"));
            return;
        };
        Self::check_presence(path, object, fields, found);
        for (name, value) in fields {
            let path = format!("{path}.{name}");
            let Some(attribute) = object.attributes.get(name) else {
                found.push(format!("{path} is not in the schema"));
                continue;
            };
            let values = if attribute.array {
                value.as_array().cloned().unwrap_or_default()
            } else {
                vec![value.clone()]
            };
            if values.is_empty() {
                found.push(format!("{path} is not a list, or empty"));
            }
            for value in values {
                self.check_value(&path, attribute, &value, found);
            }
        }
    }

    fn check_presence(
        path: &str,
        object: &Object,
        fields: &Map<String, Value>,
        found: &mut Vec<String>,
    ) {
        for (name, attribute) in &object.attributes {
            if attribute.required && !fields.contains_key(name) {
                found.push(format!("{path}.{name} is missing"));
            }
        }
        let has_one = object.at_least_one.iter().any(|it| fields.contains_key(it));
        if !object.at_least_one.is_empty() && !has_one {
            found.push(format!("{path} has none of {:?}", object.at_least_one));
        }
    }

    fn check_value(
        &self,
        path: &str,
        attribute: &Attribute,
        value: &Value,
        found: &mut Vec<String>,
    ) {
        if let Some(name) = &attribute.object {
            match self.objects.get(name) {
                // The generic object has attributes of any name.
                Some(_) if name == "object" => {}
                Some(object) => self.check_object(path, object, value, found),
                None => found.push(format!("{path}: the test has no object {name}")),
            }
            return;
        }
        let type_name = attribute.type_name.as_str();
        let Some(definition) = self.types.get(type_name) else {
            found.push(format!("{path}: unknown type {type_name}"));
            return;
        };
        let is_valid = match definition.base.as_deref().unwrap_or(type_name) {
            "string_t" => value.as_str().is_some_and(|it| !it.is_empty()),
            "integer_t" | "long_t" => value.is_i64(),
            "boolean_t" => value.is_boolean(),
            _ => true,
        };
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let matches = definition.regex.as_ref().is_none_or(|pattern| {
            let mut regex = regex::bytes::RegexBuilder::new(pattern);
            regex.unicode(false).build().unwrap().is_match(text.as_bytes())
        });
        let is_short = definition.max_len.is_none_or(|it| text.len() <= it);
        let is_listed = attribute.values.is_empty() || attribute.values.contains(&text);
        if !(is_valid && matches && is_short && is_listed) {
            found.push(format!("{path}: {value} is no {type_name}"));
        }
    }
}

/// AU-21: exported events follow the published schema, also those without a caller, those of erased people,
/// and those with an international address.
#[tokio::test(flavor = "multi_thread")]
async fn exported_events_follow_the_ocsf_schema() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    let team = world.create_team("crew", &[&world.viewer]).await;
    world.grant(json!({ "teamId": team }), "VIEWER").await;
    world.invite("bob@bücher.example", json!({ "expiresInDays": 1 })).await;
    let confirm = json!({ "confirmEmail": "developer@example.com" });
    world.developer.call_ok("identity.v1.UserService/DeleteAccount", confirm).await;
    let delete = world.project_request(json!({ "confirmName": "Shop", "confirm": true }));
    world.owner.call_ok("project.v1.ProjectService/DeleteProject", delete).await;
    suite.clock.advance(Duration::days(2));
    let owner = world.owner.sign_in_again().await;
    let log = AuditClient { owner, ..log };
    eventually("the expiry", async || {
        (suite.count_entries("invitation.expired").await > 3).then_some(())
    })
    .await;
    eventually("the end of the project", async || {
        (suite.count_entries("project.unregistered").await == 1).then_some(())
    })
    .await;
    log.checkpoint(&suite).await;
    let schema: Schema = serde_json::from_str(SCHEMA).unwrap();
    let file = String::from_utf8(log.export(ExportFormat::Ocsf).await).unwrap();
    let mut activities = BTreeMap::new();
    let mut violations = vec![];
    for line in file.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let action = event["metadata"]["event_code"].as_str().unwrap_or_default().to_owned();
        violations
            .extend(schema.violations(&event).into_iter().map(|it| format!("{action}: {it}")));
        activities.insert(action, event["activity_name"].clone());
    }
    assert!(violations.is_empty(), "{violations:#?}");
    assert_eq!(activities["project.unregistered"], "Delete");
    assert_eq!(activities["invitation.expired"], "Update");
    assert!(activities.len() > 8, "{activities:?}");
    // The recipient and the granted role are in the events.
    let find = |action: &str| {
        let is_of = |it: &Value| it["metadata"]["event_code"] == action;
        let lines = file.lines().map(|it| serde_json::from_str::<Value>(it).unwrap());
        lines.into_iter().find(is_of).unwrap()
    };
    let added = find("team.member_added");
    assert!(added["unmapped"]["event"].to_string().contains(&world.viewer.user_id), "{added}");
    let granted = find("project.access_granted");
    assert!(granted["unmapped"]["event"].to_string().contains("PROJECT_ROLE_VIEWER"), "{granted}");
    suite.finish().await;
}

/// AU-22: the Owner reads and exports the log of a deleted organization until its purge; nobody else does.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_deleted_organization_stays_readable_to_its_owner() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let log = AuditClient::new(&suite, &world.owner, &world.org).await;
    let delete = world.org_request(json!({ "confirmName": "acme" }));
    world.owner.call_ok("identity.v1.OrganizationService/DeleteOrganization", delete).await;
    suite.wait_for_log().await;
    let list = "audit.v1.AuditService/ListEntries";
    let get = "identity.v1.OrganizationService/GetOrganization";
    assert_eq!(world.owner.call_err(get, world.org_request(json!({}))).await, "NOT_FOUND");
    assert!(!log.entries(json!({ "action": "organization.deleted" })).await.is_empty());
    assert_eq!(world.admin.call_err(list, world.org_request(json!({}))).await, "NOT_FOUND");
    let of_project = world.owner.call_ok(list, world.project_request(json!({}))).await;
    assert!(of_project.to_string().contains("project.created"));
    log.checkpoint(&suite).await;
    let file = String::from_utf8(log.export(ExportFormat::Csv).await).unwrap();
    assert!(file.contains("organization.deleted"), "{file}");
    let request = pb::ExportEntriesRequest::default();
    let status = log.export_as(&world.admin, request).await.unwrap_err();
    assert_eq!(raw::reason(&status), "NOT_FOUND");

    suite.clock.advance(Duration::days(31));
    let owner = world.owner.sign_in_again().await;
    eventually("the purge", async || {
        let found = owner.call(list, world.org_request(json!({}))).await;
        found.is_err_and(|it| it.reason == "NOT_FOUND").then_some(())
    })
    .await;
    suite.finish().await;
}
