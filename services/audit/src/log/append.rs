//! Appending a batch of events: entries, index terms, tiles and tree heads commit in one transaction.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
use chassis::{Db, Error, Result, Tx};
use eventing::{Delivery, EventSink, Unrecorded};
use time::{Date, OffsetDateTime};
use uuid::Uuid;

use super::{
    effects::apply_effects,
    known_terms::KnownTerms,
    order::{AcceptedEvent, LastSequences, OrderedBatch, order_batch},
    store::{
        self, NewEntry, NewName, NewTerm, ProducerPosition, StoredPositions, TermNumbers, TreeTerm,
    },
};
use crate::{
    damage::Damage,
    decode::{IncomingEvent, LEAF_BYTES_MAX, Producer},
    integrity::{check_edge, guard::LogGuard},
    leaf_codec::LeafCodec,
    merkle::leaf_hash,
    seal::{self, SubjectKeys, Subjects},
    search_index::{IndexTerms, TermKind},
    subject_key,
    tree::{
        self, Tree,
        store::{LockedTree, NewTile},
    },
};

/// Longest name in the search index, in characters.
const NAME_LEN_MAX: usize = 300;

/// Writer of the log. Consumes every event of the suite.
pub(crate) struct LogAppender {
    db: Db,
    codec: Arc<LeafCodec>,
    guard: LogGuard,
    /// Records an event that is delivered twice as two entries. Only for fault-injection tests.
    record_duplicates: bool,
    /// Months whose partition exists.
    months: Mutex<BTreeSet<Date>>,
    known_terms: KnownTerms,
}

#[tonic::async_trait]
impl EventSink for LogAppender {
    async fn record(&self, tx: &mut Tx, batch: &[Delivery]) -> Result<Unrecorded> {
        self.append(tx, batch).await
    }
}

/// Trees of a batch.
struct LockedTrees {
    intact: Vec<Tree>,
    /// Organizations whose trees are damaged.
    damaged: BTreeSet<Uuid>,
}

/// An accepted event with its index terms.
struct IndexedEvent {
    accepted: AcceptedEvent,
    terms: IndexTerms,
}

impl LogAppender {
    pub(crate) fn new(
        db: Db,
        codec: Arc<LeafCodec>,
        guard: LogGuard,
        record_duplicates: bool,
    ) -> Self {
        let known_terms = KnownTerms::default();
        Self { db, codec, guard, record_duplicates, months: Mutex::default(), known_terms }
    }

    /// Index terms and names that are known to be stored.
    pub(super) fn known_terms(&self) -> &KnownTerms {
        &self.known_terms
    }

    /// Appends the events of a batch that are not in the log. Returns those that are not appended: their
    /// predecessor is missing, or the tree of their organization is damaged.
    pub(crate) async fn append(&self, tx: &mut Tx, batch: &[Delivery]) -> Result<Unrecorded> {
        self.ensure_partition(tx).await?;
        let events: Vec<_> = batch.iter().map(|it| self.decode(it, tx.now)).collect();
        let org_ids: BTreeSet<Uuid> = events.iter().map(|it| it.org_id).collect();
        let org_ids: Vec<Uuid> = org_ids.into_iter().collect();
        let LockedTrees { intact: mut trees, damaged } = self.lock_trees(tx, &org_ids).await?;
        let (blocked, events): (Vec<_>, Vec<_>) =
            events.into_iter().partition(|it| damaged.contains(&it.org_id));
        let blocked = blocked.iter().map(|it| it.id).collect();
        let org_ids: Vec<Uuid> = trees.iter().map(|it| it.org_id.0).collect();
        let StoredPositions { last_sequences: before, server_started_at } =
            store::positions(tx, &org_ids).await?;
        self.known_terms.require_server(server_started_at);
        let logged = self.find_logged(tx, &events, &before).await?;
        let mut last_sequences = before.clone();
        let OrderedBatch { accepted, deferred } =
            order_batch(events, &mut last_sequences, &logged, tx.now);
        let unrecorded = Unrecorded { out_of_order: deferred, blocked };
        if accepted.is_empty() {
            return Ok(unrecorded);
        }

        let index = |accepted: AcceptedEvent| IndexedEvent {
            terms: self.codec.action_names.index_terms(&accepted.event.envelope),
            accepted,
        };
        let events: Vec<IndexedEvent> = accepted.into_iter().map(index).collect();
        let subject_keys = self.subject_keys(tx, &events).await?;
        let tree_numbers: HashMap<Uuid, i32> =
            trees.iter().map(|it| (it.org_id.0, it.number)).collect();
        let term_numbers = self.store_terms(tx, &tree_numbers, &events, &subject_keys).await?;
        self.store_leaves(tx, &mut trees, &events, &subject_keys, &term_numbers).await?;

        last_sequences.retain(|producer, sequence| before.get(producer) != Some(sequence));
        let position = |(producer, sequence): (Producer, i64)| ProducerPosition {
            tree: tree_numbers[&producer.org_id],
            source: producer.source,
            sequence,
        };
        let positions: Vec<_> = last_sequences.into_iter().map(position).collect();
        store::set_producer_positions(tx, &positions).await?;
        for event in &events {
            apply_effects(tx, &event.accepted.event).await?;
        }
        tx.wake();
        for org_id in org_ids {
            tx.publish(org_id);
        }
        Ok(unrecorded)
    }

    /// Locks the trees of a batch. Damaged ones are put into quarantine.
    async fn lock_trees(&self, tx: &mut Tx, org_ids: &[Uuid]) -> Result<LockedTrees> {
        let mut trees = LockedTrees { intact: vec![], damaged: BTreeSet::new() };
        for LockedTree { org_id, tree } in tree::store::lock(tx, org_ids).await? {
            let checked = tree.and_then(|tree| {
                check_edge(self.guard.heads.head(org_id), &tree.edge)?;
                Ok(tree)
            });
            match checked {
                Ok(tree) => trees.intact.push(tree),
                Err(damage) => {
                    if !matches!(damage, Damage::Quarantined { .. }) {
                        self.guard.quarantine(org_id, &Error::from(damage)).await?;
                    }
                    trees.damaged.insert(org_id);
                }
            }
        }
        Ok(trees)
    }

    /// Decodes a delivery. An event whose leaf would be too long loses its payload.
    fn decode(&self, delivery: &Delivery, now: OffsetDateTime) -> IncomingEvent {
        let event = IncomingEvent::decode(delivery, now);
        let is_long = seal::may_exceed(event.bytes.len(), LEAF_BYTES_MAX)
            && seal::sealed_len_max(&self.codec.personal_fields, &event.bytes) > LEAF_BYTES_MAX;
        if is_long { event.without_payload(now) } else { event }
    }

    /// Creates the partition of the current month in a transaction of its own, so that it stays if the
    /// transaction of the batch is rolled back.
    async fn ensure_partition(&self, tx: &Tx) -> Result<()> {
        let month = store::month_of(tx.now);
        let exists = self.months.lock().unwrap_or_else(PoisonError::into_inner).contains(&month);
        if !exists {
            let create = async |tx: &mut Tx| store::create_partition(tx, month).await;
            self.db.write_as_system("log", create).await?;
            self.months.lock().unwrap_or_else(PoisonError::into_inner).insert(month);
        }
        Ok(())
    }

    /// Returns the events that are in the log. Only events whose sequence number is not new are looked up.
    async fn find_logged(
        &self,
        tx: &mut Tx,
        events: &[IncomingEvent],
        last_sequences: &LastSequences,
    ) -> Result<BTreeSet<Uuid>> {
        let has_old_sequence = |event: &&IncomingEvent| {
            event.sequence <= last_sequences.get(&event.producer()).copied().unwrap_or(0)
        };
        let ids: Vec<Uuid> = events.iter().filter(has_old_sequence).map(|it| it.id).collect();
        if ids.is_empty() || self.record_duplicates {
            return Ok(BTreeSet::new());
        }
        store::find_logged_in_tx(tx, &ids).await
    }

    /// Returns the keys of everybody whose personal data the events have.
    async fn subject_keys(&self, tx: &mut Tx, events: &[IndexedEvent]) -> Result<SubjectKeys> {
        let LeafCodec { personal_fields, vault, .. } = &*self.codec;
        let pseudonym_key = vault.pseudonym_key();
        let mut subjects = Subjects::default();
        for event in events {
            // `None`: the payload is not a message; the event is logged unsealed, exactly as received.
            let bytes = &event.accepted.event.bytes;
            let found = seal::find_subjects(personal_fields, &pseudonym_key, bytes);
            if let Some(found) = found {
                subjects.all.extend(found.all);
                subjects.addresses.extend(found.addresses);
            }
        }
        subject_key::store::get_or_create(tx, vault, &subjects).await
    }

    /// Stores the index terms and names of a batch. Returns the number of each term.
    async fn store_terms(
        &self,
        tx: &mut Tx,
        tree_numbers: &HashMap<Uuid, i32>,
        events: &[IndexedEvent],
        subject_keys: &SubjectKeys,
    ) -> Result<HashMap<TreeTerm, i32>> {
        let mut counts: BTreeMap<TreeTerm, i64> = BTreeMap::new();
        for event in events {
            let tree = tree_numbers[&event.accepted.event.org_id];
            for term in event.terms.all() {
                *counts.entry(TreeTerm { tree, term: term.clone() }).or_default() += 1;
            }
        }
        let term_numbers = self.term_numbers(tx, &counts).await?;
        let mut names = BTreeSet::new();
        for event in events {
            let tree = tree_numbers[&event.accepted.event.org_id];
            for named in &event.terms.names {
                let subject = self.codec.vault.subject_of_name(named);
                // The name of an erased person, who has no key, is not stored.
                if subject.is_none_or(|it| subject_keys.contains(&it)) {
                    let term = TreeTerm { tree, term: named.term.clone() };
                    names.insert(NewName {
                        tree,
                        term: number_of(&term_numbers, &term)?,
                        name: named.name.chars().take(NAME_LEN_MAX).collect(),
                        subject,
                        // An address gets a new key when it occurs after the erasure of its account.
                        is_lasting: subject.is_none() || named.term.kind == TermKind::Actor,
                    });
                }
            }
        }
        self.known_terms.retain_unknown_names(&mut names);
        if !names.is_empty() {
            let stored = store::insert_names(tx, names).await?;
            self.known_terms.insert_names(stored.into_iter().filter(|it| it.is_lasting));
        }
        Ok(term_numbers)
    }

    /// Returns the number of each term, given with its number of new entries. Stores new terms.
    async fn term_numbers(
        &self,
        tx: &mut Tx,
        counts: &BTreeMap<TreeTerm, i64>,
    ) -> Result<HashMap<TreeTerm, i32>> {
        let mut numbers = self.known_terms.numbers(counts.keys());
        let unknown: Vec<_> = counts.keys().filter(|it| !numbers.contains_key(it)).collect();
        if !unknown.is_empty() {
            let stored = store::find_terms(tx, &unknown).await?;
            self.known_terms.insert_numbers(&stored);
            numbers.extend(stored);
        }
        for (term, number) in &numbers {
            self.known_terms.count_entries(*number, counts[term]);
        }
        let new = counts.iter().filter(|(term, _)| !numbers.contains_key(term));
        let new: Vec<_> = new.map(|(term, entries)| NewTerm { term, entries: *entries }).collect();
        if !new.is_empty() {
            numbers.extend(store::insert_terms(tx, &new).await?);
        }
        Ok(numbers)
    }

    /// Seals the events, appends them to their trees, and stores entries, complete tiles and trees.
    async fn store_leaves(
        &self,
        tx: &mut Tx,
        trees: &mut [Tree],
        events: &[IndexedEvent],
        subject_keys: &SubjectKeys,
        term_numbers: &HashMap<TreeTerm, i32>,
    ) -> Result<()> {
        let mut entries = vec![];
        let mut tiles = vec![];
        for IndexedEvent { accepted: AcceptedEvent { event, flags }, terms } in events {
            let tree = trees.iter_mut().find(|it| it.org_id.0 == event.org_id);
            let tree = tree.context("every tree of the batch is locked")?;
            let leaf = self.seal(event, subject_keys);
            let leaf_hash = leaf_hash(&leaf);
            entries.push(NewEntry {
                tree: tree.number,
                index: tree.edge.size(),
                event_id: event.id,
                terms: TermNumbers::of(terms, tree.number, term_numbers)?,
                outcome: terms.outcome,
                flags: *flags,
                leaf,
            });
            let mut completed = vec![];
            tree.edge.append(leaf_hash, &mut completed);
            tiles.extend(completed.into_iter().map(|tile| NewTile { tree: tree.number, tile }));
        }
        store::insert_entries(tx, entries).await?;
        if !tiles.is_empty() {
            tree::store::insert_tiles(tx, &tiles).await?;
        }
        tree::store::update(tx, trees).await
    }

    /// Returns the leaf of an event. An event whose payload is not a message is logged as received.
    fn seal(&self, event: &IncomingEvent, subject_keys: &SubjectKeys) -> Vec<u8> {
        let LeafCodec { personal_fields, vault, .. } = &*self.codec;
        let pseudonym_key = vault.pseudonym_key();
        let sealed = seal::seal_envelope(
            personal_fields,
            &pseudonym_key,
            event.id,
            &event.bytes,
            subject_keys,
        );
        sealed.unwrap_or_else(|| event.bytes.clone())
    }
}

impl TermNumbers {
    fn of(
        terms: &IndexTerms,
        tree: i32,
        term_numbers: &HashMap<TreeTerm, i32>,
    ) -> anyhow::Result<Self> {
        let number = |term: &crate::search_index::Term| {
            number_of(term_numbers, &TreeTerm { tree, term: term.clone() })
        };
        Ok(Self {
            actor: number(&terms.actor)?,
            resource: number(&terms.resource)?,
            resource_kind: number(&terms.resource_kind)?,
            action: number(&terms.action)?,
            project: terms.project.as_ref().map(number).transpose()?,
            environment: terms.environment.as_ref().map(number).transpose()?,
        })
    }
}

fn number_of(term_numbers: &HashMap<TreeTerm, i32>, term: &TreeTerm) -> anyhow::Result<i32> {
    let number = term_numbers.get(term).copied();
    number.context("every index term of the batch is stored")
}
