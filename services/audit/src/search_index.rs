//! Search index: the terms of an entry (actor, object, project, environment, action) that lists filter by.

use std::collections::HashMap;

use api::event::{Activity, Envelope};
use prost_reflect::DescriptorPool;

/// Kind of an index term. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i16)]
pub(crate) enum TermKind {
    Actor = 1,
    /// Id and kind of an object: `0193…:invitation`.
    Resource = 2,
    Project = 3,
    Environment = 4,
    /// Action name: `member.removed`.
    Action = 5,
    /// Kind of an object: `invitation`.
    ResourceKind = 6,
}

impl TermKind {
    /// Converts a stored number; `None` if it is unknown.
    pub(crate) fn from_db(number: i16) -> Option<Self> {
        let kinds = [
            Self::Actor,
            Self::Resource,
            Self::Project,
            Self::Environment,
            Self::Action,
            Self::ResourceKind,
        ];
        kinds.into_iter().find(|kind| *kind as i16 == number)
    }
}

/// One value that entries of a tree are found by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Term {
    pub(crate) kind: TermKind,
    pub(crate) value: String,
}

impl Term {
    pub(crate) fn new(kind: TermKind, value: impl Into<String>) -> Self {
        Self { kind, value: value.into() }
    }
}

/// A name or address that an actor or an object had at the time of an event. Searched as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedTerm {
    /// The actor or the object.
    pub(crate) term: Term,
    pub(crate) name: String,
}

/// Index terms of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IndexTerms {
    pub(crate) actor: Term,
    pub(crate) resource: Term,
    pub(crate) resource_kind: Term,
    pub(crate) action: Term,
    pub(crate) project: Option<Term>,
    pub(crate) environment: Option<Term>,
    /// Number of `tenantry.event.v1.Outcome`, as stored.
    pub(crate) outcome: i16,
    pub(crate) names: Vec<NamedTerm>,
}

impl IndexTerms {
    /// Iterates over all terms.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Term> {
        let required = [&self.actor, &self.resource, &self.resource_kind, &self.action];
        required.into_iter().chain(&self.project).chain(&self.environment)
    }
}

/// Actions of the contract's events, by full message name.
pub(crate) struct ActionNames(HashMap<String, Action>);

/// An action with its kind.
struct Action {
    /// Name, for example `member.removed`.
    name: String,
    activity: Activity,
}

impl ActionNames {
    /// Reads the options `tenantry.event.v1.action` and `tenantry.event.v1.activity` of every message.
    pub(crate) fn load(descriptors: &[u8]) -> anyhow::Result<Self> {
        let pool = DescriptorPool::decode(descriptors)?;
        let option = pool.get_extension_by_name("tenantry.event.v1.action");
        let option = option.ok_or_else(|| {
            anyhow::anyhow!("the contract lacks the option tenantry.event.v1.action")
        })?;
        let activity_option = pool.get_extension_by_name("tenantry.event.v1.activity");
        let activity_option = activity_option.ok_or_else(|| {
            anyhow::anyhow!("the contract lacks the option tenantry.event.v1.activity")
        })?;
        let action = |message: prost_reflect::MessageDescriptor| {
            let options = message.options();
            let name = options.get_extension(&option).as_str()?.to_owned();
            let activity = options.get_extension(&activity_option).as_enum_number();
            let activity = activity.and_then(|it| Activity::try_from(it).ok()).unwrap_or_default();
            let action = Action { name, activity };
            (!action.name.is_empty()).then(|| (message.full_name().to_owned(), action))
        };
        Ok(Self(pool.all_messages().filter_map(action).collect()))
    }

    /// Returns the action of an event, as `object.past_participle`. An event that this version does not know
    /// is named by its message.
    pub(crate) fn action_of<'a>(&'a self, envelope: &'a Envelope) -> &'a str {
        let message_name = message_name(envelope);
        self.0.get(message_name).map_or(message_name, |it| &it.name)
    }

    /// Returns the kind of an event's action; OTHER for an event that this version does not know.
    pub(crate) fn activity_of(&self, envelope: &Envelope) -> Activity {
        self.0.get(message_name(envelope)).map_or(Activity::Other, |it| it.activity)
    }

    #[cfg(test)]
    /// Iterates over the names of all actions.
    pub(crate) fn all(&self) -> impl Iterator<Item = &String> {
        self.0.values().map(|it| &it.name)
    }

    /// Extracts the index terms of an envelope that is not sealed.
    pub(crate) fn index_terms(&self, envelope: &Envelope) -> IndexTerms {
        let actor = envelope.actor.clone().unwrap_or_default();
        let resource = envelope.resource.clone().unwrap_or_default();
        let optional_term = |kind, id: &String| (!id.is_empty()).then(|| Term::new(kind, id));
        let actor_term = Term::new(TermKind::Actor, actor.id);
        let resource_term =
            Term::new(TermKind::Resource, format!("{}:{}", resource.id, resource.kind));
        let names = [
            NamedTerm { term: actor_term.clone(), name: actor.name },
            NamedTerm { term: actor_term.clone(), name: actor.email },
            NamedTerm { term: resource_term.clone(), name: resource.name },
        ];
        IndexTerms {
            actor: actor_term,
            resource: resource_term,
            resource_kind: Term::new(TermKind::ResourceKind, resource.kind),
            action: Term::new(TermKind::Action, self.action_of(envelope)),
            project: optional_term(TermKind::Project, &envelope.project_id),
            environment: optional_term(TermKind::Environment, &envelope.environment_id),
            outcome: i16::try_from(envelope.outcome).unwrap_or_default(),
            names: names.into_iter().filter(|it| !it.name.is_empty()).collect(),
        }
    }
}

/// Full name of the message of an event.
fn message_name(envelope: &Envelope) -> &str {
    let url = envelope.event.as_ref().map(|it| it.type_url.as_str()).unwrap_or_default();
    url.rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each event has an action name, and the names are unique.
    #[test]
    fn every_event_of_the_contract_has_an_action_of_its_own() {
        let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
        let actions = ActionNames::load(api::DESCRIPTORS).unwrap();
        // Messages of event files that are parts of events.
        let event_parts = ["tenantry.project.v1.VariableFingerprint"];
        let mut sorted: Vec<_> = actions.all().cloned().collect();
        sorted.sort();
        for (i, action) in sorted.iter().enumerate() {
            assert_eq!(action.split('.').count(), 2, "{action}");
            assert_ne!(sorted.get(i + 1), Some(action), "two events have the action {action}");
        }
        for message in pool.all_messages() {
            let name = message.full_name();
            let is_in_event_file = message.parent_file().name().ends_with("_events.proto");
            let is_event = is_in_event_file && !event_parts.contains(&name);
            assert_eq!(actions.0.contains_key(name), is_event, "{name}");
            if let Some(action) = actions.0.get(name) {
                assert_ne!(action.activity, Activity::Unspecified, "{name} has no activity");
            }
        }
    }
}
