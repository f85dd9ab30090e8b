//! The check, tree by tree.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use api::event::Envelope;
use chassis::{Db, Result};
use prost::Message;
use uuid::Uuid;
use verifier::{
    Pins,
    note::VerifierKey,
    tree::{Hash, leaf_hash},
};

use super::{
    Findings,
    rederive::{Numbers, Rederived},
    store::{self, Entry, Tree},
};
use crate::{facts::Actions, log::SUITE, memory::Memory};

/// More differences than this are not told: something is wrong as a whole.
const TOLD_MAX: usize = 1_000;

/// One check of everything.
pub(crate) struct Check {
    db: Db,
    pins: Pins,
    actions: Actions,
    memory: Memory,
    findings: Findings,
}

impl Check {
    /// Believes heads that one of these keys signed; `journal` is what the signer remembers.
    pub(crate) fn new(db: Db, keys: &[String], journal: &Path) -> anyhow::Result<Self> {
        let keys = keys.iter().map(|it| VerifierKey::parse(it)).collect::<Result<_, _>>()?;
        let text = if journal.exists() {
            std::fs::read_to_string(journal).context("the signer's journal")?
        } else {
            String::new()
        };
        let (pins, actions) = (Pins { keys, org_id: None }, Actions::load(api::DESCRIPTORS)?);
        Ok(Self { db, pins, actions, memory: Memory::parse(&text), findings: Findings::default() })
    }

    /// Checks every tree.
    pub(crate) async fn run(mut self) -> Result<Findings> {
        for tree in store::trees(&self.db).await? {
            self.findings.trees += 1;
            let rederived = if tree.org_id == SUITE.0 {
                self.suite(&tree).await?
            } else {
                self.log(&tree).await?
            };
            self.edge(&tree, &rederived).await?;
        }
        for (tree, head) in self.memory.clone().trees() {
            let known = store::trees(&self.db).await?.into_iter().any(|it| it.org_id == tree);
            if !known {
                self.differs(tree, format!("it is gone; {} entries of it were signed", head.size));
            }
        }
        Ok(self.findings)
    }

    fn differs(&mut self, tree: Uuid, what: impl std::fmt::Display) {
        if self.findings.differs.len() < TOLD_MAX {
            let name =
                if tree == SUITE.0 { "the suite's tree".to_owned() } else { tree.to_string() };
            self.findings.differs.push(format!("{name}: {what}"));
        }
    }

    /// The log of one organization.
    async fn log(&mut self, tree: &Tree) -> Result<Rederived> {
        let heads = store::heads(&self.db, tree.number).await?;
        let (mut rederived, mut numbers) = (Rederived::default(), Numbers::default());
        let mut next = 0;
        // Of what was purged only hashes are left.
        while next < tree.purged_before.min(tree.size) {
            let hash = self.stored_hash(tree, next).await?;
            self.add(tree, &mut rederived, hash, &heads).await?;
            next += 1;
        }
        loop {
            let entries = store::entries(&self.db, tree.number, next).await?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                self.until(tree, &mut rederived, next, entry.index, &heads).await?;
                if entry.index < next {
                    self.differs(tree.org_id, format!("entry {} is there twice", entry.index));
                    continue;
                }
                if entry.index >= tree.size {
                    self.differs(tree.org_id, format!("entry {} was added", entry.index));
                    next = entry.index + 1;
                    continue;
                }
                let (hash, stored) =
                    (leaf_hash(&entry.leaf), self.stored_hash(tree, entry.index).await?);
                if hash != stored {
                    self.differs(
                        tree.org_id,
                        format!("entry {}: its bytes were changed", entry.index),
                    );
                }
                self.entry(tree, &entry, &mut numbers);
                self.add(tree, &mut rederived, hash, &heads).await?;
                self.findings.entries += 1;
                next = entry.index + 1;
            }
        }
        self.until(tree, &mut rederived, next, tree.size, &heads).await?;
        for (source, sequence) in store::lanes(&self.db, tree.number).await? {
            let last = numbers.last().get(&source).copied();
            if last.is_some_and(|it| it != sequence) {
                let last = last.unwrap_or_default();
                self.differs(
                    tree.org_id,
                    format!("the last event of {source} is {last}, not {sequence} as the log says"),
                );
            }
        }
        Ok(rederived)
    }

    /// Entries that should be there and are not: their hashes still count.
    async fn until(
        &mut self,
        tree: &Tree,
        rederived: &mut Rederived,
        from: i64,
        to: i64,
        heads: &BTreeMap<i64, String>,
    ) -> Result<()> {
        for index in from..to.min(tree.size) {
            self.differs(tree.org_id, format!("entry {index} is missing"));
            let hash = self.stored_hash(tree, index).await?;
            self.add(tree, rederived, hash, heads).await?;
        }
        Ok(())
    }

    /// Adds a leaf; compares the tiles that it fills, and the head of this size.
    async fn add(
        &mut self,
        tree: &Tree,
        rederived: &mut Rederived,
        hash: Hash,
        heads: &BTreeMap<i64, String>,
    ) -> Result<()> {
        for full in rederived.add(hash) {
            let stored = store::tile(&self.db, tree.number, full.level, full.index).await?;
            if stored.as_ref() != Some(&full.hashes) {
                let what = if stored.is_some() { "was changed" } else { "is missing" };
                let (level, index) = (full.level, full.index);
                self.differs(tree.org_id, format!("the tile {index} of level {level} {what}"));
            }
        }
        let size = rederived.size();
        let note = i64::try_from(size).ok().and_then(|it| heads.get(&it));
        if let Some(note) = note {
            self.head(tree.org_id, note, size, &rederived.root());
        }
        let remembered = self.memory.head(tree.org_id).filter(|it| it.size == size);
        if remembered.is_some_and(|it| it.root != rederived.root()) {
            self.differs(
                tree.org_id,
                format!("its first {size} entries are not those that were signed"),
            );
        }
        Ok(())
    }

    /// A signed head against the root that the entries give.
    fn head(&mut self, tree: Uuid, note: &str, size: u64, root: &Hash) {
        self.findings.heads += 1;
        let name = if tree == SUITE.0 { "suite".to_owned() } else { tree.to_string() };
        let pins = Pins { org_id: Some(name), ..self.pins.clone() };
        match verifier::note::open(note, &pins) {
            Err(why) => self.differs(tree, format!("the head of size {size}: {why}")),
            Ok(head) if head.size != size || head.root != *root => {
                let what =
                    "the signed head is not that of the entries: they were changed after signing";
                self.differs(tree, format!("size {size}: {what}"));
            }
            Ok(_) => {}
        }
    }

    /// What an entry says of itself, against what it is found by.
    fn entry(&mut self, tree: &Tree, entry: &Entry, numbers: &mut Numbers) {
        let Ok(envelope) = Envelope::decode(&*entry.leaf) else { return };
        let org_id = Uuid::try_parse(&envelope.org_id).unwrap_or_default();
        let facts = self.actions.facts(&envelope);
        let mut wanted: Vec<String> =
            facts.all().map(|it| format!("{}:{}", it.0 as i16, it.1)).collect();
        let mut found = entry.facts.clone();
        wanted.sort();
        found.sort();
        let same =
            Uuid::try_parse(&envelope.id).ok() == Some(entry.event_id) && org_id == tree.org_id;
        if !same || wanted != found || facts.outcome != entry.outcome {
            let what = "it is not found by what it says";
            self.differs(tree.org_id, format!("entry {}: {what}", entry.index));
        }
        let purged = tree.purged_before > 0;
        if let Some(missing) = numbers.next(&envelope.source, envelope.sequence, purged) {
            let source = &envelope.source;
            self.differs(
                tree.org_id,
                format!("entry {}: event {missing} of {source} is missing before it", entry.index),
            );
        }
    }

    /// The suite's tree: its leaves are signed heads and heartbeats.
    async fn suite(&mut self, tree: &Tree) -> Result<Rederived> {
        let (mut rederived, mut next, heads) = (Rederived::default(), 0, BTreeMap::default());
        loop {
            let leaves = store::suite(&self.db, next).await?;
            if leaves.is_empty() {
                break;
            }
            for (index, leaf) in leaves {
                if index != next {
                    self.differs(tree.org_id, format!("head {next} is missing"));
                }
                self.add(tree, &mut rederived, leaf_hash(leaf.as_bytes()), &heads).await?;
                if u64::try_from(tree.signed).is_ok_and(|it| it == rederived.size()) {
                    self.head(tree.org_id, &tree.note, rederived.size(), &rederived.root());
                }
                next = index + 1;
            }
        }
        Ok(rederived)
    }

    /// What is stored of a tree's end, against what was derived.
    async fn edge(&mut self, tree: &Tree, rederived: &Rederived) -> Result<()> {
        if i64::try_from(rederived.size()).ok() != Some(tree.size) {
            let what = format!("it has {} entries, not {} as it says", rederived.size(), tree.size);
            self.differs(tree.org_id, what);
        } else if rederived.edge() != tree.edge {
            self.differs(tree.org_id, "the hashes at its edge were changed");
        }
        let mut full = (1..16).map(|it| tree.size >> (4 * it));
        if store::tiles(&self.db, tree.number).await? != full.by_ref().sum::<i64>() {
            self.differs(tree.org_id, "tiles were added, or are missing");
        }
        let signed = self.memory.head(tree.org_id).map_or(0, |it| it.size);
        if signed > rederived.size() {
            let size = rederived.size();
            self.differs(
                tree.org_id,
                format!("it has {size} entries, but {signed} were signed: it was cut"),
            );
        }
        Ok(())
    }

    /// The hash that the tree has of an entry: from its tile, or from the edge.
    async fn stored_hash(&self, tree: &Tree, index: i64) -> Result<Hash> {
        let place = usize::try_from(index % 16).unwrap_or_default() * 32;
        let bytes = if index / 16 < tree.size / 16 {
            store::tile(&self.db, tree.number, 0, index / 16).await?.unwrap_or_default()
        } else {
            tree.edge.clone()
        };
        let hash = bytes.get(place..place + 32).and_then(|it| it.try_into().ok());
        Ok(hash.unwrap_or_default())
    }
}
