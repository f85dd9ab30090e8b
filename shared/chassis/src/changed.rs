//! A changed state together with the events that record the change: neither is stored without the other.

use api::{error::Reason, event as pb};
use prost::{Message, Name};
use prost_types::Any;
use uuid::Uuid;

use crate::{OrgId, ProjectId, id};

/// The object that an event is about.
#[derive(Clone, Debug, Default)]
pub struct EventTarget {
    org_id: Option<OrgId>,
    project_id: Option<ProjectId>,
    environment_id: Option<Uuid>,
    resource: pb::Resource,
}

impl EventTarget {
    /// Makes the target from an object's kind, id and current name.
    pub fn object(kind: &str, id: impl Into<String>, name: impl Into<String>) -> Self {
        let resource = pb::Resource { kind: kind.to_owned(), id: id.into(), name: name.into() };
        Self { resource, ..Self::default() }
    }

    /// Sets the organization that the event belongs to.
    #[must_use]
    pub fn in_org(self, org_id: OrgId) -> Self {
        Self { org_id: Some(org_id), ..self }
    }

    /// Sets the project that the event belongs to.
    #[must_use]
    pub fn in_project(self, project_id: ProjectId) -> Self {
        Self { project_id: Some(project_id), ..self }
    }

    /// Sets the environment that the event belongs to.
    #[must_use]
    pub fn in_environment(self, environment_id: Uuid) -> Self {
        Self { environment_id: Some(environment_id), ..self }
    }
}

/// A new state with its events. Business rules make it; [`crate::Tx::emit`] writes the events and returns the
/// state.
#[must_use = "store the state, then pass this to `Tx::emit`"]
#[derive(Debug)]
pub struct Changed<T> {
    state: T,
    event: Box<EncodedEvent>,
    following: Vec<EncodedEvent>,
}

/// An encoded event with its target.
#[derive(Debug)]
pub(crate) struct EncodedEvent {
    pub(crate) id: Uuid,
    payload: Any,
    target: EventTarget,
    outcome: pb::Outcome,
    /// Reason of an outcome other than success.
    reason: Option<Reason>,
}

impl<T> Changed<T> {
    /// Makes a change from a new state and its event.
    pub fn new<E: Message + Name>(state: T, event: &E, target: EventTarget) -> Self {
        Self { state, event: Box::new(EncodedEvent::new(event, target)), following: vec![] }
    }

    /// Adds further events about the same object, for a change whose list does not fit into one envelope: the
    /// first event has the length of the list, and each further event a part of the list.
    pub fn followed_by<E: Message + Name>(mut self, events: impl IntoIterator<Item = E>) -> Self {
        let target = self.event.target.clone();
        let events = events.into_iter().map(|it| EncodedEvent::new(&it, target.clone()));
        self.following.extend(events);
        self
    }

    /// Marks the event as an attempt that was denied or failed, so that it changed nothing.
    pub fn with_outcome(mut self, outcome: pb::Outcome, reason: Reason) -> Self {
        self.event.outcome = outcome;
        self.event.reason = Some(reason);
        self
    }

    /// Returns the id of the event.
    pub fn event_id(&self) -> Uuid {
        self.event.id
    }

    /// Replaces the state and keeps the events.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Changed<U> {
        let Self { state, event, following } = self;
        Changed { state: change(state), event, following }
    }

    /// Returns the new state, to be stored.
    pub fn state(&self) -> &T {
        &self.state
    }

    pub(crate) fn into_parts(self) -> (T, EncodedEvent, Vec<EncodedEvent>) {
        (self.state, *self.event, self.following)
    }
}

impl EncodedEvent {
    fn new<E: Message + Name>(event: &E, target: EventTarget) -> Self {
        Self {
            id: id::new(),
            payload: Any { type_url: E::type_url(), value: event.encode_to_vec() },
            target,
            outcome: pb::Outcome::Success,
            reason: None,
        }
    }

    /// Returns the envelope: the event with the fields of `context` (source, actor, time, origin, salt).
    pub(crate) fn envelope(self, context: pb::Envelope) -> pb::Envelope {
        let reason = self.reason.map(|it| it.as_str_name().trim_start_matches("REASON_"));
        pb::Envelope {
            id: self.id.to_string(),
            outcome: self.outcome.into(),
            reason: reason.unwrap_or_default().to_owned(),
            org_id: self.target.org_id.map(String::from).unwrap_or_default(),
            project_id: self.target.project_id.map(String::from).unwrap_or_default(),
            environment_id: self.target.environment_id.map(String::from).unwrap_or_default(),
            resource: Some(self.target.resource),
            event: Some(self.payload),
            ..context
        }
    }
}
