//! An entry whose leaf is decoded and hashed, and the comparison of its leaf with its index terms.

use api::event::Envelope;
use prost::Message;
use uuid::Uuid;
use verifier::tree::{Hash, leaf_hash};

use super::store::{StoredEntry, StoredTerm, Terms};
use crate::{log::store::TermNumbers, search_index::TermKind};

/// A stored entry with the content and the hash of its leaf.
pub(super) struct DecodedEntry {
    pub(super) index: i64,
    pub(super) event_id: Uuid,
    pub(super) outcome: i16,
    /// Hash of the leaf.
    pub(super) hash: Hash,
    /// The leaf; `None` if it is not an envelope.
    pub(super) envelope: Option<Envelope>,
    terms: TermNumbers,
}

impl DecodedEntry {
    /// Decodes and hashes the leaf of an entry.
    pub(super) fn of(stored: StoredEntry) -> Self {
        Self {
            index: stored.index,
            event_id: stored.event_id,
            outcome: stored.outcome,
            hash: leaf_hash(&stored.leaf),
            envelope: Envelope::decode(&*stored.leaf).ok(),
            terms: stored.terms,
        }
    }

    /// True if the index terms of the entry are those of an envelope with this action.
    pub(super) fn has_terms_of(&self, action: &str, envelope: &Envelope, terms: &Terms) -> bool {
        let numbers = &self.terms;
        let has = |number: i32, kind: TermKind, value: &str| {
            terms.get(&number).is_some_and(|it| it.kind == kind as i16 && it.value == value)
        };
        let has_optional = |number: Option<i32>, kind: TermKind, value: &str| match number {
            Some(number) => has(number, kind, value),
            None => value.is_empty(),
        };
        let actor_id = envelope.actor.as_ref().map_or("", |it| &it.id);
        let resource = envelope.resource.as_ref();
        let resource_id = resource.map_or("", |it| &it.id);
        let resource_kind = resource.map_or("", |it| &it.kind);
        has(numbers.actor, TermKind::Actor, actor_id)
            && terms
                .get(&numbers.resource)
                .is_some_and(|it| is_resource(it, resource_id, resource_kind))
            && has(numbers.resource_kind, TermKind::ResourceKind, resource_kind)
            && has(numbers.action, TermKind::Action, action)
            && has_optional(numbers.project, TermKind::Project, &envelope.project_id)
            && has_optional(numbers.environment, TermKind::Environment, &envelope.environment_id)
    }
}

/// True if a term is the object with this id and kind.
fn is_resource(term: &StoredTerm, id: &str, kind: &str) -> bool {
    let stored_kind = term.value.strip_prefix(id).and_then(|it| it.strip_prefix(':'));
    term.kind == TermKind::Resource as i16 && stored_kind == Some(kind)
}
