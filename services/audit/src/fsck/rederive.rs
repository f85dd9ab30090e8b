//! A tree that is derived again from its leaves, beside what is stored of it.

use std::collections::BTreeMap;

use verifier::tree::{Growing, Hash};

/// Hashes of a tile.
const WIDTH: usize = 16;

/// A tree, leaf by leaf.
#[derive(Default)]
pub(crate) struct Rederived {
    growing: Growing,
    /// At each level of tiles, the hashes that fill no tile yet, and how many tiles are full.
    levels: Vec<(Vec<Hash>, i64)>,
}

/// A tile that has become full.
pub(crate) struct Full {
    pub(crate) level: i16,
    pub(crate) index: i64,
    pub(crate) hashes: Vec<u8>,
}

impl Rederived {
    /// Adds a leaf; answers the tiles that it fills.
    pub(crate) fn add(&mut self, leaf: Hash) -> Vec<Full> {
        self.growing.add(leaf);
        let (mut hash, mut full) = (leaf, vec![]);
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push((vec![], 0));
            }
            let (hashes, index) = &mut self.levels[level];
            hashes.push(hash);
            if hashes.len() < WIDTH {
                return full;
            }
            let mut tile = Growing::default();
            for hash in hashes.iter() {
                tile.add(*hash);
            }
            hash = tile.root();
            let bytes = hashes.concat();
            let number = i16::try_from(level * 4).expect("a tree has at most 64 levels");
            full.push(Full { level: number, index: *index, hashes: bytes });
            hashes.clear();
            *index += 1;
        }
        full
    }

    /// Leaves so far.
    pub(crate) fn size(&self) -> u64 {
        self.growing.size()
    }

    /// The root.
    pub(crate) fn root(&self) -> Hash {
        self.growing.root()
    }

    /// What is not in a tile, from the lowest level up.
    pub(crate) fn edge(&self) -> Vec<u8> {
        self.levels.iter().flat_map(|it| it.0.concat()).collect()
    }
}

/// The numbers of a service in one tree: each is there once, or was used again.
#[derive(Default)]
pub(crate) struct Numbers(BTreeMap<String, i64>);

impl Numbers {
    /// The next event of a service. Answers the number that is missing before it, if one is. `open` says that
    /// entries before may have been purged.
    pub(crate) fn next(&mut self, source: &str, sequence: i64, open: bool) -> Option<i64> {
        if sequence == 0 {
            return None;
        }
        let first = if open { sequence - 1 } else { 0 };
        let last = self.0.entry(source.to_owned()).or_insert(first);
        let missing = (sequence > *last + 1).then_some(*last + 1);
        *last = (*last).max(sequence);
        missing
    }

    /// How far each service has come.
    pub(crate) fn last(&self) -> &BTreeMap<String, i64> {
        &self.0
    }
}
