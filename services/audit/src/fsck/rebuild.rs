//! A tree that is rebuilt from its leaves, for comparison with the stored one.

use std::collections::BTreeMap;

use verifier::tree::{Hash, RootBuilder};

/// Hashes of a complete tile.
const TILE_WIDTH: usize = 16;
/// Levels of the tree that one tile spans.
const TILE_HEIGHT: usize = 4;

/// A tree that is rebuilt leaf by leaf.
#[derive(Default)]
pub(super) struct RebuiltTree {
    root: RootBuilder,
    /// State of each tile level, lowest first.
    levels: Vec<TileLevel>,
}

/// The incomplete tile of one level.
#[derive(Default)]
struct TileLevel {
    hashes: Vec<Hash>,
    /// Number of complete tiles before it.
    complete_tiles: i64,
}

/// A tile that has become complete.
pub(super) struct CompleteTile {
    pub(super) level: i16,
    pub(super) index: i64,
    pub(super) hashes: Vec<u8>,
}

impl RebuiltTree {
    /// Appends a leaf. Returns the tiles that it completes.
    pub(super) fn push(&mut self, leaf: Hash) -> Vec<CompleteTile> {
        self.root.push(leaf);
        let mut hash = leaf;
        let mut completed = vec![];
        for position in 0.. {
            if self.levels.len() == position {
                self.levels.push(TileLevel::default());
            }
            let level = &mut self.levels[position];
            level.hashes.push(hash);
            if level.hashes.len() < TILE_WIDTH {
                return completed;
            }
            let mut tile_root = RootBuilder::default();
            for hash in &level.hashes {
                tile_root.push(*hash);
            }
            hash = tile_root.root();
            completed.push(CompleteTile {
                level: i16::try_from(position * TILE_HEIGHT).expect("a tree has at most 64 levels"),
                index: level.complete_tiles,
                hashes: level.hashes.concat(),
            });
            level.hashes.clear();
            level.complete_tiles += 1;
        }
        completed
    }

    /// Number of leaves.
    pub(super) fn size(&self) -> u64 {
        self.root.size()
    }

    /// Returns the root.
    pub(super) fn root(&self) -> Hash {
        self.root.root()
    }

    /// Returns the hashes outside of complete tiles, lowest level first, as the column `tree.edge` has them.
    pub(super) fn edge(&self) -> Vec<u8> {
        self.levels.iter().flat_map(|it| it.hashes.concat()).collect()
    }
}

/// Last sequence number of each service in one tree. Detects gaps.
#[derive(Default)]
pub(super) struct SequenceCheck(BTreeMap<String, i64>);

impl SequenceCheck {
    /// Adds the next event of a service. Returns the first missing sequence number before it, if there is a
    /// gap. With `starts_anywhere`, earlier entries may be purged, so the first number of a service is
    /// unknown.
    pub(super) fn push(
        &mut self,
        source: &str,
        sequence: i64,
        starts_anywhere: bool,
    ) -> Option<i64> {
        if sequence == 0 {
            return None;
        }
        let before_first = if starts_anywhere { sequence - 1 } else { 0 };
        let last = self.0.entry(source.to_owned()).or_insert(before_first);
        let missing = (sequence > *last + 1).then_some(*last + 1);
        *last = (*last).max(sequence);
        missing
    }

    /// Returns the last sequence number of a service.
    pub(super) fn last(&self, source: &str) -> Option<i64> {
        self.0.get(source).copied()
    }
}
