//! A state and the events that explain it; neither is stored without the other.

use api::{error::Reason, event as pb};
use prost::{Message, Name};
use prost_types::Any;

use uuid::Uuid;

use crate::{OrgId, ProjectId, id};

/// What an event happened to.
#[derive(Clone, Debug, Default)]
pub struct About {
    org_id: Option<OrgId>,
    project_id: Option<ProjectId>,
    environment_id: Option<Uuid>,
    resource: pb::Resource,
}

impl About {
    /// An object: its kind, its id, and its name at this time.
    pub fn object(kind: &str, id: impl Into<String>, name: impl Into<String>) -> Self {
        let (kind, id) = (kind.to_owned(), id.into());
        let resource = pb::Resource { kind, id, name: name.into() };
        Self { resource, ..Self::default() }
    }

    /// The organization that the event belongs to.
    #[must_use]
    pub fn of(self, org_id: OrgId) -> Self {
        Self { org_id: Some(org_id), ..self }
    }

    /// The project that the event belongs to.
    #[must_use]
    pub fn in_project(self, project_id: ProjectId) -> Self {
        Self { project_id: Some(project_id), ..self }
    }

    /// The environment that the event belongs to.
    #[must_use]
    pub fn in_environment(self, environment_id: Uuid) -> Self {
        Self { environment_id: Some(environment_id), ..self }
    }
}

/// A new state together with the fact that produced it. Only rules make one, only [`crate::Tx::emit`]
/// takes it apart.
#[must_use = "a change that is not stored did not happen"]
#[derive(Debug)]
pub struct Changed<T> {
    state: T,
    pub(crate) fact: Box<Fact>,
    following: Vec<Fact>,
}

/// An encoded event, and what it happened to.
#[derive(Debug)]
pub(crate) struct Fact {
    pub(crate) id: Uuid,
    pub(crate) event: Any,
    pub(crate) about: About,
    /// Why it was not done, if it was not.
    pub(crate) refused: Option<(pb::Outcome, Reason)>,
}

impl<T> Changed<T> {
    /// Pairs a state with its event.
    pub fn new<E: Message + Name>(state: T, event: &E, about: About) -> Self {
        let event = Any { type_url: E::type_url(), value: event.encode_to_vec() };
        let fact = Fact { id: id::new(), event, about, refused: None };
        Self { state, fact: Box::new(fact), following: vec![] }
    }

    /// Adds events that follow from the first one and are about the same object. For lists that grow with
    /// the data: an event has a bound, so the first one carries their counts, and these their parts.
    pub fn followed_by<E: Message + Name>(mut self, events: impl IntoIterator<Item = E>) -> Self {
        self.following.extend(events.into_iter().map(|it| Fact {
            id: id::new(),
            event: Any { type_url: E::type_url(), value: it.encode_to_vec() },
            about: self.fact.about.clone(),
            refused: None,
        }));
        self
    }

    /// The same event, of something that was tried and not done.
    pub fn not_done(mut self, outcome: pb::Outcome, why: Reason) -> Self {
        self.fact.refused = Some((outcome, why));
        self
    }

    /// The identity of the event.
    pub fn event_id(&self) -> Uuid {
        self.fact.id
    }

    /// The same event with another state.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Changed<U> {
        let Self { state, fact, following } = self;
        Changed { state: change(state), fact, following }
    }

    /// The new state, to be stored.
    pub fn state(&self) -> &T {
        &self.state
    }

    pub(crate) fn into_parts(self) -> (T, Fact, Vec<Fact>) {
        (self.state, *self.fact, self.following)
    }
}

impl Fact {
    /// The envelope in which the event leaves.
    pub(crate) fn envelope(self, head: pb::Envelope) -> pb::Envelope {
        let (outcome, why) = match self.refused {
            Some((outcome, why)) => (outcome, why.as_str_name().trim_start_matches("REASON_")),
            None => (pb::Outcome::Success, ""),
        };
        pb::Envelope {
            id: self.id.to_string(),
            outcome: outcome.into(),
            reason: why.to_owned(),
            org_id: self.about.org_id.map(String::from).unwrap_or_default(),
            project_id: self.about.project_id.map(String::from).unwrap_or_default(),
            environment_id: self.about.environment_id.map(String::from).unwrap_or_default(),
            resource: Some(self.about.resource),
            event: Some(self.event),
            ..head
        }
    }
}
