//! Rules of the contract, checked for every method.

use std::collections::BTreeSet;

use chassis::rule::{Audience, Rules};
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind};
use testkit::Suite;
use tonic::Code;

use crate::support::raw::{self, reason};

#[tokio::test(flavor = "multi_thread")]
async fn only_public_methods_answer_anonymous_callers() {
    let suite = Suite::start().await;
    let channel = raw::connect(suite.address).await;
    let rules = Rules::load(api::DESCRIPTORS).unwrap();
    for method in raw::methods() {
        let name = raw::name(&method);
        let answer = raw::call(&channel, &name, None, vec![]).await;
        let public = rules.get(&format!("/{name}")).unwrap().audience == Audience::Public;
        match answer {
            Err(status) if !public => {
                assert_eq!(status.code(), Code::Unauthenticated, "{name} without a credential");
                assert_eq!(reason(&status), "MISSING_CREDENTIAL", "{name}");
            }
            Ok(_) if !public => panic!("{name} succeeds without a credential"),
            Err(status) => assert_ne!(status.code(), Code::Unauthenticated, "{name} is public"),
            Ok(_) => {}
        }
    }
    suite.finish().await;
}

#[test]
fn every_method_has_an_example_that_its_request_accepts() {
    let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
    let rules = Rules::load(api::DESCRIPTORS).unwrap();
    for method in raw::methods() {
        let name = raw::name(&method);
        let example = &rules.get(&format!("/{name}")).unwrap().example;
        let descriptor = pool.get_message_by_name(method.input().full_name()).unwrap();
        let mut json = serde_json::Deserializer::from_str(example);
        let parsed = DynamicMessage::deserialize(descriptor, &mut json);
        assert!(parsed.is_ok(), "the example of {name} is invalid: {example}: {parsed:?}");
    }
}

/// A permission that guards nothing would be recommended by `Explain` and be granted for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn every_permission_guards_something() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let matrix =
        ann.call_ok("identity.v1.AccessService/GetPermissionMatrix", serde_json::json!({})).await;
    let rows = ["organization", "project"].map(|it| matrix[it].as_array().unwrap().clone());
    let listed: BTreeSet<String> =
        rows.concat().iter().map(|it| it["permission"].as_str().unwrap().to_owned()).collect();
    let rules = Rules::load(api::DESCRIPTORS).unwrap();
    let of_methods = rules.iter().filter_map(|it| match &it.audience {
        Audience::Permission(permission) => Some(permission.clone()),
        _ => None,
    });
    // Required in the code: an operation of a method by its object.
    let in_code = ["project.production.deploy"].map(str::to_owned);
    let on_projects = rules.iter().filter_map(|it| it.project_permission.clone());
    let required: BTreeSet<String> = of_methods.chain(on_projects).chain(in_code).collect();
    assert_eq!(listed, required);
    suite.finish().await;
}

#[test]
fn every_method_is_a_read_or_declares_its_events() {
    let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
    let rules = Rules::load(api::DESCRIPTORS).unwrap();
    // These methods change data and write no event.
    let without_events = [
        "tenantry.project.v1.RunnerService/ReportProgress",
        "tenantry.project.v1.RunnerService/LeaseStream",
        "tenantry.project.v1.RunnerService/SendStreamData",
        "tenantry.project.v1.RunnerService/ReceiveStreamInput",
        "tenantry.project.v1.RunnerService/SetDnsChallenge",
        "tenantry.project.v1.RunnerService/ClearDnsChallenge",
        "tenantry.project.v1.StorageObjectService/PutObject",
        "tenantry.project.v1.StorageObjectService/RegisterStorageUse",
        "tenantry.project.v1.StorageObjectService/RemoveStorageUse",
        "tenantry.audit.v1.IngestService/Append",
    ];
    for rule in rules.iter() {
        let has_none = without_events.contains(&rule.method.as_str());
        let is_without_events = rule.emits.is_empty();
        assert_eq!(rule.read || has_none, is_without_events, "events of {}", rule.method);
        for event in &rule.emits {
            assert!(pool.get_message_by_name(event).is_some(), "{}: {event}", rule.method);
        }
    }
}

/// True if a text field has a kind (`tenantry.policy.v1.text`).
fn has_text_kind(field: &FieldDescriptor) -> bool {
    let option = field.parent_pool().get_extension_by_name("tenantry.policy.v1.text").unwrap();
    field.options().get_extension(&option).as_enum_number() != Some(0)
}

/// Returns true if the rules of a text field, or of the items of a list, limit the characters.
fn limits_characters(rules: &DynamicMessage, is_list: bool) -> bool {
    if is_list {
        let items = get(rules, "repeated").and_then(|it| get(&it, "items"));
        return items.is_some_and(|it| limits_characters(&it, false));
    }
    let text = get(rules, "string");
    text.is_some_and(|it| ["pattern", "uuid"].iter().any(|rule| it.has_field_by_name(rule)))
}

/// A field that is a message.
fn get(message: &DynamicMessage, field: &str) -> Option<DynamicMessage> {
    message.get_field_by_name(field)?.as_message().cloned()
}

/// Texts of programs, commits and git, which the service cleans and truncates instead of rejecting them, and
/// ids in reports of a heartbeat, of which an invalid one is rejected alone.
const UNVALIDATED: [&str; 20] = [
    "EnvironmentReport.detail",
    "EnvironmentReport.environment_id",
    "EnvironmentReport.release",
    "EnvironmentReport.url",
    "FinishTaskRequest.commit",
    "FinishTaskRequest.commit_author",
    "FinishTaskRequest.commit_subject",
    "FinishTaskRequest.error_message",
    "FinishTaskRequest.url",
    "HeartbeatRequest.apps_domain",
    "HeartbeatRequest.database_address",
    "HeartbeatRequest.isolation",
    "HeartbeatRequest.limits",
    "HeartbeatRequest.shared_address",
    "HeartbeatRequest.version",
    "LogBlock.deployment_id",
    "ReportProgressRequest.current_step",
    "ReportProgressRequest.log_lines",
    "ServedCertificate.hostname",
    "StreamPart.error_message",
];

/// I-29: all names of requests have the rule of names, and no rule is a category of control characters, which
/// has letters that some scripts need.
#[test]
fn every_name_of_a_request_has_the_rule_of_names() {
    const NAME: i32 = 1;
    let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
    let option = pool.get_extension_by_name("tenantry.policy.v1.text").unwrap();
    let requests = pool.all_messages().filter(|it| it.name().ends_with("Request"));
    let mut count = 0;
    for field in requests.flat_map(|it| it.fields().collect::<Vec<_>>()) {
        if ["name", "display_name", "confirm_name"].contains(&field.name()) {
            let kind = field.options().get_extension(&option).as_enum_number();
            assert_eq!(kind, Some(NAME), "{}", field.full_name());
            count += 1;
        }
        let rules = field.options().to_string();
        assert!(!rules.contains("P{C}") && !rules.contains("pC"), "{}: {rules}", field.full_name());
    }
    assert!(count > 20, "{count} names");
}

/// Rules reject NUL, control and bidirectional characters; a text without a rule would accept them.
#[test]
fn every_text_of_a_request_has_a_character_rule() {
    let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
    let option = pool.get_extension_by_name("buf.validate.field").unwrap();
    let mut messages: Vec<_> =
        raw::methods().iter().map(prost_reflect::MethodDescriptor::input).collect();
    while let Some(message) = messages.pop() {
        for field in message.fields() {
            let options = field.options();
            let rules = options.get_extension(&option);
            let rules = rules.as_message().unwrap();
            match field.kind() {
                Kind::Message(inner) if inner.full_name().starts_with("tenantry.") => {
                    messages.push(inner);
                }
                Kind::String => {
                    let name = field.full_name();
                    let is_unvalidated = name
                        .strip_prefix("tenantry.project.v1.")
                        .is_some_and(|it| UNVALIDATED.contains(&it));
                    let has_rule =
                        has_text_kind(&field) || limits_characters(rules, field.is_list());
                    assert_ne!(has_rule, is_unvalidated, "{name} has a rule: {has_rule}");
                }
                _ => {}
            }
        }
    }
}

/// An event is named like its audit action: `team.member_added` is TeamMemberAdded.
#[test]
fn events_are_named_like_their_actions() {
    let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
    let option = pool.get_extension_by_name("tenantry.event.v1.action").unwrap();
    let mut count = 0;
    for message in pool.all_messages() {
        let options = message.options();
        if !options.has_extension(&option) {
            continue;
        }
        let action = options.get_extension(&option).as_str().unwrap().to_owned();
        let words = action.split(['.', '_']);
        let expected: String = words.map(|it| it[..1].to_uppercase() + &it[1..]).collect();
        assert_eq!(message.name(), expected, "name of the event of the action {action}");
        count += 1;
    }
    assert!(count > 100, "only {count} messages have the option `action`");
}
