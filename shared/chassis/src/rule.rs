//! Rules of the methods: authorization and other properties, read from the option next to each method in the
//! contract (`proto/tenantry/policy`).

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, Value};

/// Full name of the option with a method's rule.
pub const OPTION: &str = "tenantry.policy.v1.rule";

/// Interval at which the reader of a stream is checked, unless the rule has another one.
const RECHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The callers that a method admits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Anyone.
    Public,
    /// Accounts with a valid credential.
    Account,
    /// Accounts with this permission on the organization or project that the request names.
    Permission(String),
    /// Services of the suite with these names.
    Services(Vec<String>),
}

/// The rule of one method.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Full name, for example `tenantry.identity.v1.MemberService/RemoveMember`.
    pub method: String,
    /// The callers that the method admits.
    pub audience: Audience,
    /// True if the method changes nothing (`idempotency_level = NO_SIDE_EFFECTS`).
    pub read: bool,
    /// True if API keys may call a method for any account ([`Audience::Account`]).
    pub keys: bool,
    /// True if the method makes decisions whose age the request limits (field `consistency`). It verifies the
    /// credential of its caller with them.
    pub decides: bool,
    /// The permission that is required instead if the request names a project.
    pub project_permission: Option<String>,
    /// True if connected servers may call a method for services, too, with their agent tokens.
    pub agents: bool,
    /// True if the response is a stream.
    pub streaming: bool,
    /// True if the request is a stream. Its method also has a stream as its response.
    pub client_streaming: bool,
    /// True if the method may wait for a change before it responds.
    pub long_poll: bool,
    /// Interval at which the credential and the permissions of a stream's reader are checked.
    pub recheck_interval: Duration,
    /// Types of the events that the method writes.
    pub emits: Vec<String>,
    /// Example of a request, in JSON.
    pub example: String,
}

/// Rules of all methods, by path (`/package.Service/Method`).
#[derive(Clone, Debug, Default)]
pub struct Rules(HashMap<String, Arc<Rule>>);

impl Rules {
    /// Reads the rules from an encoded descriptor set. Fails with the names of all methods whose rule is
    /// missing or invalid, so that no server starts with a method without authorization.
    pub fn load(descriptors: &[u8]) -> anyhow::Result<Self> {
        let pool = DescriptorPool::decode(descriptors).context("cannot read the descriptors")?;
        let mut rules = HashMap::new();
        let mut invalid = vec![];
        for method in pool.services().flat_map(|it| it.methods().collect::<Vec<_>>()) {
            match rule(&pool, &method) {
                Some(rule) => {
                    rules.insert(format!("/{}", rule.method), Arc::new(rule));
                }
                None => invalid.push(name(&method)),
            }
        }
        if !invalid.is_empty() {
            bail!(
                "these methods have no valid rule: {}; add `option ({OPTION})` with an audience to each",
                invalid.join(", ")
            );
        }
        Ok(Self(rules))
    }

    /// Returns the rule of the method at a path.
    pub fn get(&self, path: &str) -> Option<&Arc<Rule>> {
        self.0.get(path)
    }

    /// Iterates over all rules in arbitrary order.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.values().map(|it| &**it)
    }

    /// True if the contract has a gRPC service with this full name.
    pub fn serves(&self, service: &str) -> bool {
        self.iter().any(|it| it.method.split('/').next() == Some(service))
    }
}

/// Value of `google.protobuf.MethodOptions.IdempotencyLevel`.
const NO_SIDE_EFFECTS: i32 = 1;

fn name(method: &MethodDescriptor) -> String {
    format!("{}/{}", method.parent_service().full_name(), method.name())
}

/// Reads the rule of a method; `None` if it is missing or invalid.
fn rule(pool: &DescriptorPool, method: &MethodDescriptor) -> Option<Rule> {
    let option = pool.get_extension_by_name(OPTION)?;
    let options = method.options();
    let rule = options.get_extension(&option);
    let rule = rule.as_message()?;
    let idempotency_level = options.get_field_by_name("idempotency_level");
    Some(Rule {
        method: name(method),
        audience: audience(rule)?,
        read: matches!(idempotency_level.as_deref(), Some(Value::EnumNumber(NO_SIDE_EFFECTS))),
        keys: rule.get_field_by_name("keys")?.as_bool()?,
        decides: method.input().get_field_by_name("consistency").is_some(),
        project_permission: Some(
            rule.get_field_by_name("project_permission")?.as_str()?.to_owned(),
        )
        .filter(|it| !it.is_empty()),
        agents: agents(rule),
        streaming: method.is_server_streaming(),
        client_streaming: method.is_client_streaming(),
        long_poll: rule.get_field_by_name("long_poll")?.as_bool()?,
        recheck_interval: recheck_interval(rule.get_field_by_name("recheck_s")?.as_i32()?),
        emits: texts(rule, "emits"),
        example: rule.get_field_by_name("example")?.as_str()?.to_owned(),
    })
}

fn recheck_interval(seconds: i32) -> Duration {
    u64::try_from(seconds).ok().filter(|it| *it > 0).map_or(RECHECK_INTERVAL, Duration::from_secs)
}

fn audience(rule: &DynamicMessage) -> Option<Audience> {
    let get = |name| rule.has_field_by_name(name).then(|| rule.get_field_by_name(name)).flatten();
    if let Some(it) = get("public") {
        return it.as_bool()?.then_some(Audience::Public);
    }
    if let Some(it) = get("account") {
        return it.as_bool()?.then_some(Audience::Account);
    }
    if let Some(it) = get("permission") {
        let code = it.as_str()?.to_owned();
        return (!code.is_empty()).then_some(Audience::Permission(code));
    }
    let names = texts(get("services")?.as_message()?, "names");
    (!names.is_empty()).then_some(Audience::Services(names))
}

/// Returns true if the audience is `services` with `agents: true`.
fn agents(rule: &DynamicMessage) -> bool {
    let services = rule.get_field_by_name("services");
    let agents =
        services.as_deref().and_then(Value::as_message).map(|it| it.get_field_by_name("agents"));
    agents.flatten().is_some_and(|it| it.as_bool() == Some(true))
}

/// Returns the items of a repeated string field.
fn texts(message: &DynamicMessage, field: &str) -> Vec<String> {
    let value = message.get_field_by_name(field);
    let items = value.as_deref().and_then(Value::as_list).unwrap_or_default();
    items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_has_a_rule() {
        // `load` fails if a method has none.
        let rules = Rules::load(api::DESCRIPTORS).unwrap();
        assert!(rules.iter().next().is_some(), "the contract has no methods");
    }
}
