//! A method of the contract with its rule.

use prost_reflect::{
    DynamicMessage, ExtensionDescriptor, Kind, MethodDescriptor, ReflectMessage, Value,
};
use serde_json::Value as Json;

/// A method with its rule.
pub(super) struct Method {
    pub(super) descriptor: MethodDescriptor,
    rule: DynamicMessage,
}

impl Method {
    pub(super) fn new(descriptor: MethodDescriptor, rule: &ExtensionDescriptor) -> Self {
        let options = descriptor.options();
        let rule = options.get_extension(rule).as_message().cloned();
        let empty = || DynamicMessage::new(descriptor.input());
        Self { rule: rule.unwrap_or_else(empty), descriptor }
    }

    /// Returns the service and the method, for example `TeamService/CreateTeam`.
    pub(super) fn short_name(&self) -> String {
        format!("{}/{}", self.descriptor.parent_service().name(), self.descriptor.name())
    }

    /// Returns a link to the section of the method.
    pub(super) fn link(&self) -> String {
        let name = self.short_name();
        format!("[{name}](api.md#{})", name.replace('/', "").to_lowercase())
    }

    /// Returns a text field of the rule; empty if it is not set.
    pub(super) fn text(&self, field: &str) -> String {
        let value = self.rule.get_field_by_name(field);
        value.and_then(|it| it.as_str().map(str::to_owned)).unwrap_or_default()
    }

    fn is_true(&self, field: &str) -> bool {
        self.rule.get_field_by_name(field).and_then(|it| it.as_bool()).unwrap_or_default()
    }

    /// Returns a list field of the rule; numbers of enums as their names.
    pub(super) fn list(&self, field: &str) -> impl Iterator<Item = String> {
        let descriptor = self.rule.descriptor().get_field_by_name(field);
        let kind = descriptor.map(|it| it.kind());
        let value = self.rule.get_field_by_name(field);
        let items = value.and_then(|it| it.as_list().map(<[_]>::to_vec)).unwrap_or_default();
        let name = move |item: Value| match (&kind, item.as_enum_number()) {
            (Some(Kind::Enum(names)), Some(number)) => {
                names.get_value(number).map(|it| it.name().to_owned())
            }
            _ => item.as_str().map(str::to_owned),
        };
        items.into_iter().filter_map(name).collect::<Vec<_>>().into_iter()
    }

    pub(super) fn callers(&self) -> String {
        let mut callers = if self.is_true("public") {
            "everybody, without a credential".to_owned()
        } else if self.is_true("account") {
            let keys = if self.is_true("keys") { ", also with an API key" } else { "" };
            format!("any signed-in account{keys}")
        } else if self.rule.has_field_by_name("services") {
            let services = self.rule.get_field_by_name("services");
            let services = services.as_deref().and_then(Value::as_message);
            let names = services.and_then(|it| it.get_field_by_name("names"));
            let names = names.and_then(|it| it.as_list().map(<[_]>::to_vec)).unwrap_or_default();
            let names: Vec<_> = names.iter().filter_map(|it| it.as_str()).map(code).collect();
            let agents = services.and_then(|it| it.get_field_by_name("agents"));
            let agents = agents.and_then(|it| it.as_bool()).unwrap_or_default();
            let agents = if agents { ", and connected servers with their agent token" } else { "" };
            format!("services of the suite: {}{agents}", names.join(", "))
        } else {
            let project = self.text("project_permission");
            let project =
                if project.is_empty() { project } else { format!(", with a project `{project}`") };
            format!("permission `{}`{project}", self.text("permission"))
        };
        if self.descriptor.is_server_streaming() {
            callers += ". The response is a stream";
        } else if self.is_true("long_poll") {
            callers += ". The call may wait (long poll)";
        }
        callers + "."
    }

    /// Returns the example as a call of grpcurl; for services of the suite as JSON.
    pub(super) fn example(&self) -> String {
        let example = self.text("example");
        if self.rule.has_field_by_name("services") {
            return format!("\n```json\n{example}\n```\n");
        }
        let token = "-H \"authorization: Bearer $TOKEN\" ";
        let token = if self.is_true("public") { "" } else { token };
        let service = self.descriptor.parent_service().full_name().to_owned();
        let name = self.descriptor.name();
        format!(
            "\n```sh\ngrpcurl -plaintext {token}-d '{}' \\\n  127.0.0.1:50051 {service}/{name}\n```\n",
            for_grpcurl(&example)
        )
    }
}

/// Rewrites the field mask of an example, which grpcurl takes as a message instead of a string.
fn for_grpcurl(example: &str) -> String {
    let parsed: Option<Json> = serde_json::from_str(example).ok();
    let mask = parsed.as_ref().and_then(|it| it.get("update_mask")).and_then(Json::as_str);
    let Some(mask) = mask else { return example.to_owned() };
    let mut paths = vec![];
    for path in mask.split(',') {
        let mut snake = String::new();
        for character in path.chars() {
            if character.is_ascii_uppercase() {
                snake.push('_');
            }
            snake.push(character.to_ascii_lowercase());
        }
        paths.push(format!("\"{snake}\""));
    }
    let message = format!("\"update_mask\": {{\"paths\": [{}]}}", paths.join(", "));
    example.replace(&format!("\"update_mask\": \"{mask}\""), &message)
}

fn code(name: &str) -> String {
    format!("`{name}`")
}
