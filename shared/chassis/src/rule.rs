//! The rules of the contract: who may call which method, read from the options next to each method.

use std::{collections::HashMap, sync::Arc};

use anyhow::{Context, bail};
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, Value};

/// The full name of the option that holds a method's rule.
pub const OPTION: &str = "tenantry.policy.v1.rule";

/// Who may call a method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Anyone.
    Public,
    /// Any signed-in account.
    Account,
    /// Whoever has this permission on the object that the request names.
    Permission(String),
    /// Services of the suite.
    Services(Vec<String>),
}

/// The rule of one method.
#[derive(Clone, Debug)]
pub struct Rule {
    /// `tenantry.identity.v1.MemberService/RemoveMember`.
    pub method: String,
    /// Who may call it.
    pub audience: Audience,
    /// Whether it changes nothing.
    pub read: bool,
    /// Whether an API key may call it, if any account may.
    pub keys: bool,
    /// The permission instead, if the request names a project.
    pub project_permission: Option<String>,
    /// Whether a connected server may call it, too, with its agent token; for methods of services.
    pub agents: bool,
    /// Whether it answers with a stream.
    pub streaming: bool,
    /// Whether it may wait for something to happen before it answers.
    pub long_poll: bool,
    /// The events that it writes.
    pub emits: Vec<String>,
    /// A request, as JSON.
    pub example: String,
}

/// The rules of every method, by path (`/package.Service/Method`).
#[derive(Clone, Debug, Default)]
pub struct Rules(HashMap<String, Arc<Rule>>);

impl Rules {
    /// Reads the rules from an encoded descriptor set. Fails, and names every method that has none or
    /// a broken one, so that a server never serves a method about which nobody decided.
    pub fn load(descriptors: &[u8]) -> anyhow::Result<Self> {
        let pool = DescriptorPool::decode(descriptors).context("cannot read the descriptors")?;
        let (mut rules, mut broken) = (HashMap::new(), vec![]);
        for method in pool.services().flat_map(|it| it.methods().collect::<Vec<_>>()) {
            match rule(&pool, &method) {
                Some(rule) => {
                    rules.insert(format!("/{}", rule.method), Arc::new(rule));
                }
                None => broken.push(name(&method)),
            }
        }
        if !broken.is_empty() {
            bail!(
                "nobody decided who may call {}: add `option ({OPTION})` with an audience to each",
                broken.join(", ")
            );
        }
        Ok(Self(rules))
    }

    /// The rule of a method.
    pub fn get(&self, path: &str) -> Option<&Arc<Rule>> {
        self.0.get(path)
    }

    /// Every rule, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.values().map(|it| &**it)
    }

    /// Whether a service is in the contract.
    pub fn serves(&self, service: &str) -> bool {
        self.iter().any(|it| it.method.split('/').next() == Some(service))
    }
}

fn name(method: &MethodDescriptor) -> String {
    format!("{}/{}", method.parent_service().full_name(), method.name())
}

fn rule(pool: &DescriptorPool, method: &MethodDescriptor) -> Option<Rule> {
    let option = pool.get_extension_by_name(OPTION)?;
    let options = method.options();
    let rule = options.get_extension(&option);
    let rule = rule.as_message()?;
    let read = options.get_field_by_name("idempotency_level");
    Some(Rule {
        method: name(method),
        audience: audience(rule)?,
        read: matches!(read.as_deref(), Some(Value::EnumNumber(1))),
        keys: rule.get_field_by_name("keys")?.as_bool()?,
        project_permission: Some(
            rule.get_field_by_name("project_permission")?.as_str()?.to_owned(),
        )
        .filter(|it| !it.is_empty()),
        agents: agents(rule),
        streaming: method.is_server_streaming(),
        long_poll: rule.get_field_by_name("long_poll")?.as_bool()?,
        emits: texts(rule, "emits"),
        example: rule.get_field_by_name("example")?.as_str()?.to_owned(),
    })
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

fn agents(rule: &DynamicMessage) -> bool {
    let services = rule.get_field_by_name("services");
    let agents =
        services.as_deref().and_then(Value::as_message).map(|it| it.get_field_by_name("agents"));
    agents.flatten().is_some_and(|it| it.as_bool() == Some(true))
}

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
        assert!(Rules::load(api::DESCRIPTORS).unwrap().iter().count() > 20);
    }
}
