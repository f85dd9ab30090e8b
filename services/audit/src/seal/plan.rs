//! Where personal fields are, from the contract.

use std::collections::HashMap;

use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor};

use super::wire;

/// The name of the message that a leaf is.
pub(super) const ENVELOPE: &str = "tenantry.event.v1.Envelope";

/// For each message, the fields to look into, by number. Messages without any are left out.
pub(crate) struct Plans(HashMap<String, HashMap<u32, Step>>);

/// What a field is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Personal, of this person.
    Personal(Whose),
    /// A message that may hold some.
    Message(String),
    /// An event, of any type.
    Any,
}

/// How to find out whose a text is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Whose {
    Account(Path),
    Address(Path),
    Resource,
}

/// Numbers of fields, from the message that holds the text, or from the envelope.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Path {
    pub(super) from_envelope: bool,
    pub(super) fields: Vec<u32>,
}

/// Whose a text is, in one envelope.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Subject<'l> {
    /// Of the account with this id; empty if there is none.
    Account(&'l str),
    /// Of whoever has this address; empty if the text itself is it.
    Address(&'l str),
    /// Of nobody.
    Nobody,
}

impl Plans {
    /// Reads the contract. Fails if a path leads nowhere.
    pub(crate) fn load(descriptors: &[u8]) -> anyhow::Result<Self> {
        let pool = DescriptorPool::decode(descriptors)?;
        let mut plans = HashMap::new();
        for message in pool.all_messages().filter(|it| it.full_name().starts_with("tenantry.")) {
            let plan = plan(&pool, &message)?;
            if !plan.is_empty() {
                plans.insert(message.full_name().to_owned(), plan);
            }
        }
        Ok(Self(plans))
    }

    pub(super) fn of(&self, message: &str) -> Option<&HashMap<u32, Step>> {
        self.0.get(message)
    }
}

fn plan(pool: &DescriptorPool, message: &MessageDescriptor) -> anyhow::Result<HashMap<u32, Step>> {
    let mut plan = HashMap::new();
    for field in message.fields() {
        let step = match field.kind() {
            Kind::String => match marked(pool, &field.options()) {
                Some(mark) => Some(Step::Personal(whose(pool, message, field.name(), &mark)?)),
                None => None,
            },
            Kind::Message(it) if it.full_name() == "google.protobuf.Any" => Some(Step::Any),
            Kind::Message(it) if holds_some(pool, &it, &mut vec![]) => {
                Some(Step::Message(it.full_name().to_owned()))
            }
            _ => None,
        };
        plan.extend(step.map(|it| (field.number(), it)));
    }
    Ok(plan)
}

/// The mark of a field, if it has one.
fn marked(pool: &DescriptorPool, options: &DynamicMessage) -> Option<DynamicMessage> {
    let option = pool.get_extension_by_name("tenantry.event.v1.personal")?;
    options.has_extension(&option).then(|| options.get_extension(&option).as_message().cloned())?
}

/// Whether a message holds personal data somewhere inside.
fn holds_some(pool: &DescriptorPool, message: &MessageDescriptor, above: &mut Vec<String>) -> bool {
    if above.iter().any(|it| it == message.full_name()) {
        return false;
    }
    above.push(message.full_name().to_owned());
    let found = message.fields().any(|field| match field.kind() {
        Kind::String => marked(pool, &field.options()).is_some(),
        Kind::Message(it) => holds_some(pool, &it, above),
        _ => false,
    });
    above.pop();
    found
}

fn whose(
    pool: &DescriptorPool,
    message: &MessageDescriptor,
    field: &str,
    mark: &DynamicMessage,
) -> anyhow::Result<Whose> {
    let given = |name: &str| {
        let it = mark.has_field_by_name(name).then(|| mark.get_field_by_name(name))??;
        it.as_str().map(str::to_owned)
    };
    if let Some(text) = given("account") {
        return Ok(Whose::Account(path(pool, message, &text)?));
    }
    let Some(text) = given("address") else { return Ok(Whose::Resource) };
    if text == field {
        return Ok(Whose::Address(Path { from_envelope: false, fields: vec![] }));
    }
    Ok(Whose::Address(path(pool, message, &text)?))
}

fn path(pool: &DescriptorPool, message: &MessageDescriptor, text: &str) -> anyhow::Result<Path> {
    let from_envelope = text.starts_with('/');
    let root = pool.get_message_by_name(ENVELOPE).filter(|_| from_envelope);
    let (mut at, mut fields) = (root.unwrap_or_else(|| message.clone()), vec![]);
    for name in text.trim_start_matches('/').split('.') {
        let field = at.get_field_by_name(name);
        let field = field
            .ok_or_else(|| anyhow::anyhow!("{}: {text} leads to no field", message.full_name()))?;
        fields.push(field.number());
        if let Kind::Message(inner) = field.kind() {
            at = inner;
        }
    }
    Ok(Path { from_envelope, fields })
}

impl Whose {
    /// Whose a text is, in a message of an envelope.
    pub(super) fn find<'l>(&self, message: &'l [u8], envelope: &'l [u8]) -> Subject<'l> {
        let text = |it: &Path| {
            wire::text_at(if it.from_envelope { envelope } else { message }, &it.fields)
                .unwrap_or("")
        };
        match self {
            Self::Account(path) => Subject::Account(text(path)),
            Self::Address(path) if path.fields.is_empty() => Subject::Address(""),
            Self::Address(path) => Subject::Address(text(path)),
            // Kind and id of `tenantry.event.v1.Resource`.
            Self::Resource => match wire::text_at(message, &[1]).unwrap_or("") {
                "user" | "member" => Subject::Account(wire::text_at(message, &[2]).unwrap_or("")),
                "invitation" => Subject::Address(""),
                _ => Subject::Nobody,
            },
        }
    }
}
