//! What a list of entries is found by: the facts of an envelope.

use std::collections::HashMap;

use api::event::Envelope;
use prost_reflect::DescriptorPool;

/// What kind of fact it is. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i16)]
pub(crate) enum Kind {
    Actor = 1,
    /// Id of an object and its kind: `0193…:invitation`.
    Resource = 2,
    Project = 3,
    Environment = 4,
    Action = 5,
    /// Kind of object.
    Type = 6,
}

/// A fact, within one tree.
pub(crate) type Fact = (Kind, String);

/// The facts of one envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) actor: Fact,
    pub(crate) resource: Fact,
    pub(crate) kind: Fact,
    pub(crate) action: Fact,
    pub(crate) project: Option<Fact>,
    pub(crate) environment: Option<Fact>,
    pub(crate) outcome: i16,
    /// Names that the actor and the object had.
    pub(crate) names: Vec<(Fact, String)>,
}

impl Facts {
    /// Every fact.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Fact> {
        let always = [&self.actor, &self.resource, &self.kind, &self.action];
        always.into_iter().chain(&self.project).chain(&self.environment)
    }
}

/// The actions of the contract's events.
pub(crate) struct Actions(HashMap<String, String>);

impl Actions {
    /// Reads the contract.
    pub(crate) fn load(descriptors: &[u8]) -> anyhow::Result<Self> {
        let pool = DescriptorPool::decode(descriptors)?;
        let option = pool.get_extension_by_name("tenantry.event.v1.action");
        let option = option.ok_or_else(|| anyhow::anyhow!("the contract has no actions"))?;
        let action = |it: prost_reflect::MessageDescriptor| {
            let options = it.options();
            let action = options.get_extension(&option).as_str()?.to_owned();
            (!action.is_empty()).then(|| (it.full_name().to_owned(), action))
        };
        Ok(Self(pool.all_messages().filter_map(action).collect()))
    }

    /// What an envelope tells, as `resource.verb`; the name of its event, if this version does not know it.
    pub(crate) fn of(&self, envelope: &Envelope) -> String {
        let url = envelope.event.as_ref().map(|it| it.type_url.as_str()).unwrap_or_default();
        let name = url.rsplit('/').next().unwrap_or_default();
        self.0.get(name).map_or_else(|| name.to_owned(), Clone::clone)
    }

    #[cfg(test)]
    /// Every action there is.
    pub(crate) fn all(&self) -> impl Iterator<Item = &String> {
        self.0.values()
    }

    /// The facts of an envelope, as it was before anything in it was sealed.
    pub(crate) fn facts(&self, envelope: &Envelope) -> Facts {
        let actor = envelope.actor.clone().unwrap_or_default();
        let object = envelope.resource.clone().unwrap_or_default();
        let given = |kind, id: &String| (!id.is_empty()).then(|| (kind, id.clone()));
        let who = (Kind::Actor, actor.id);
        let what = (Kind::Resource, format!("{}:{}", object.id, object.kind));
        let named =
            [(who.clone(), actor.name), (who.clone(), actor.email), (what.clone(), object.name)];
        Facts {
            names: named.into_iter().filter(|it| !it.1.is_empty()).collect(),
            actor: who,
            resource: what,
            kind: (Kind::Type, object.kind),
            action: (Kind::Action, self.of(envelope)),
            project: given(Kind::Project, &envelope.project_id),
            environment: given(Kind::Environment, &envelope.environment_id),
            outcome: i16::try_from(envelope.outcome).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every event has an action, and no two have the same.
    #[test]
    fn every_event_of_the_contract_has_an_action_of_its_own() {
        let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
        let actions = Actions::load(api::DESCRIPTORS).unwrap();
        // Parts of events that are no events.
        let parts = ["tenantry.project.v1.VariableFingerprint"];
        let mut known: Vec<_> = actions.all().cloned().collect();
        known.sort();
        for (i, action) in known.iter().enumerate() {
            assert_eq!(action.split('.').count(), 2, "{action}");
            assert_ne!(known.get(i + 1), Some(action), "two events are {action}");
        }
        for it in pool.all_messages() {
            let event = it.parent_file().name().ends_with("_events.proto");
            let part = parts.contains(&it.full_name());
            assert_eq!(
                actions.0.contains_key(it.full_name()),
                event && !part,
                "{}",
                it.full_name()
            );
        }
    }
}
