//! Personal fields of the contract: the option `tenantry.event.v1.personal` of all messages, resolved to
//! field numbers.

use std::collections::HashMap;

use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor};

use super::wire;

/// Message type of leaves.
pub(super) const ENVELOPE: &str = "tenantry.event.v1.Envelope";

/// Field numbers of `tenantry.event.v1.Resource`.
const RESOURCE_KIND_FIELD: u32 = 1;
const RESOURCE_ID_FIELD: u32 = 2;

/// Rules of the fields of one message, by field number. A field without a rule is copied unchanged.
pub(super) type FieldRules = HashMap<u32, FieldRule>;

/// Field rules of every message that can hold personal data, by full message name.
pub(crate) struct PersonalFields(HashMap<String, FieldRules>);

/// Treatment of one field.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum FieldRule {
    /// A personal text.
    Personal(SubjectRule),
    /// A message of this type, which can hold personal data.
    Message(String),
    /// A `google.protobuf.Any` with an event of any type.
    Any,
}

/// Rule that finds the person that a text is about (`tenantry.event.v1.Personal`).
#[derive(Clone, Debug, PartialEq)]
pub(super) enum SubjectRule {
    /// The account whose id is at this path.
    Account(FieldNumbers),
    /// The owner of the address at this path.
    Address(FieldNumbers),
    /// The owner of the address that the text itself is.
    OwnAddress,
    /// The object of the event, if it is a person.
    Resource,
}

/// Path of a field as field numbers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FieldNumbers {
    /// True if the path starts at the envelope, false if it starts at the message that holds the text.
    pub(super) from_envelope: bool,
    pub(super) numbers: Vec<u32>,
}

/// Person that one text is about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum TextSubject<'l> {
    /// The account with this id; empty if the message has none.
    Account(&'l str),
    /// The owner of this address; empty if the text itself is the address.
    Address(&'l str),
    /// Nobody: the text is about a service or an object.
    Nobody,
}

impl PersonalFields {
    /// Reads the contract. Fails if a path in an option names an unknown field.
    pub(crate) fn load(descriptors: &[u8]) -> anyhow::Result<Self> {
        let pool = DescriptorPool::decode(descriptors)?;
        let mut messages = HashMap::new();
        for message in pool.all_messages().filter(|it| it.full_name().starts_with("tenantry.")) {
            let rules = field_rules(&pool, &message)?;
            if !rules.is_empty() {
                messages.insert(message.full_name().to_owned(), rules);
            }
        }
        Ok(Self(messages))
    }

    /// Returns the field rules of a message; `None` if it cannot hold personal data.
    pub(super) fn rules_of(&self, message_name: &str) -> Option<&FieldRules> {
        self.0.get(message_name)
    }
}

fn field_rules(pool: &DescriptorPool, message: &MessageDescriptor) -> anyhow::Result<FieldRules> {
    let mut rules = FieldRules::new();
    for field in message.fields() {
        let rule = match field.kind() {
            Kind::String => match personal_option(pool, &field.options()) {
                Some(option) => {
                    Some(FieldRule::Personal(subject_rule(pool, message, field.name(), &option)?))
                }
                None => None,
            },
            Kind::Message(it) if it.full_name() == "google.protobuf.Any" => Some(FieldRule::Any),
            Kind::Message(it) if can_hold_personal_data(pool, &it, &mut vec![]) => {
                Some(FieldRule::Message(it.full_name().to_owned()))
            }
            _ => None,
        };
        rules.extend(rule.map(|it| (field.number(), it)));
    }
    Ok(rules)
}

/// Returns the option `personal` of a field, if it is set.
fn personal_option(pool: &DescriptorPool, options: &DynamicMessage) -> Option<DynamicMessage> {
    let extension = pool.get_extension_by_name("tenantry.event.v1.personal")?;
    options
        .has_extension(&extension)
        .then(|| options.get_extension(&extension).as_message().cloned())?
}

/// True if a message has a personal field at any depth. `parents` are the messages around it, which ends the
/// recursion of recursive types.
fn can_hold_personal_data(
    pool: &DescriptorPool,
    message: &MessageDescriptor,
    parents: &mut Vec<String>,
) -> bool {
    if parents.iter().any(|it| it == message.full_name()) {
        return false;
    }
    parents.push(message.full_name().to_owned());
    let found = message.fields().any(|field| match field.kind() {
        Kind::String => personal_option(pool, &field.options()).is_some(),
        Kind::Message(it) => can_hold_personal_data(pool, &it, parents),
        _ => false,
    });
    parents.pop();
    found
}

/// Resolves the option `personal` of the field `field_name` of `message`.
fn subject_rule(
    pool: &DescriptorPool,
    message: &MessageDescriptor,
    field_name: &str,
    option: &DynamicMessage,
) -> anyhow::Result<SubjectRule> {
    let path_option = |name: &str| {
        let value = option.has_field_by_name(name).then(|| option.get_field_by_name(name))??;
        value.as_str().map(str::to_owned)
    };
    if let Some(path) = path_option("account") {
        return Ok(SubjectRule::Account(resolve_path(pool, message, &path)?));
    }
    let Some(path) = path_option("address") else { return Ok(SubjectRule::Resource) };
    if path == field_name {
        return Ok(SubjectRule::OwnAddress);
    }
    Ok(SubjectRule::Address(resolve_path(pool, message, &path)?))
}

/// Resolves a path of field names, separated by dots. It starts at the envelope if it begins with a slash.
fn resolve_path(
    pool: &DescriptorPool,
    message: &MessageDescriptor,
    path: &str,
) -> anyhow::Result<FieldNumbers> {
    let from_envelope = path.starts_with('/');
    let envelope = pool.get_message_by_name(ENVELOPE).filter(|_| from_envelope);
    let mut current = envelope.unwrap_or_else(|| message.clone());
    let mut numbers = vec![];
    for name in path.trim_start_matches('/').split('.') {
        let field = current.get_field_by_name(name).ok_or_else(|| {
            anyhow::anyhow!("{}: the path {path} names an unknown field", message.full_name())
        })?;
        numbers.push(field.number());
        if let Kind::Message(inner) = field.kind() {
            current = inner;
        }
    }
    Ok(FieldNumbers { from_envelope, numbers })
}

impl SubjectRule {
    /// Finds the person that a text in `message` is about.
    pub(super) fn find_subject<'l>(
        &self,
        message: &'l [u8],
        envelope: &'l [u8],
    ) -> TextSubject<'l> {
        let text_at = |path: &FieldNumbers| {
            let start = if path.from_envelope { envelope } else { message };
            wire::text_at(start, &path.numbers).unwrap_or("")
        };
        match self {
            Self::Account(path) => TextSubject::Account(text_at(path)),
            Self::OwnAddress => TextSubject::Address(""),
            Self::Address(path) => TextSubject::Address(text_at(path)),
            Self::Resource => {
                let kind = wire::text_at(message, &[RESOURCE_KIND_FIELD]).unwrap_or("");
                match kind {
                    "user" | "member" => {
                        let id = wire::text_at(message, &[RESOURCE_ID_FIELD]);
                        TextSubject::Account(id.unwrap_or(""))
                    }
                    "invitation" => TextSubject::Address(""),
                    _ => TextSubject::Nobody,
                }
            }
        }
    }
}
