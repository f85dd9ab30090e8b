//! Stored hashes of a tree: its tiles, many of which are read at once, and its edge.

use std::collections::HashMap;

use chassis::{Result, Tx};
use verifier::tree::Hash;

use super::store::{self, StoredTree};

/// Hashes of a complete tile.
const TILE_WIDTH: i64 = 16;
/// Levels of the tree that one tile spans.
const TILE_HEIGHT: i16 = 4;
/// Levels at which a tree of up to 2^63 leaves has tiles.
const TILE_LEVELS: std::ops::Range<i16> = 0..16;
/// Length of a hash in bytes.
const HASH_LEN: usize = 32;
/// Leaves whose tiles are read at once: those of a slice and, because windows begin with a tile, up to
/// fifteen before it.
const WINDOW: i64 = 1_024;

/// Position of a tile: its level, a multiple of four, and its index at this level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct TilePosition {
    pub(super) level: i16,
    pub(super) index: i64,
}

impl TilePosition {
    /// Index of the leaf that completes the tile; the largest number for a tile beyond every tree.
    fn last_leaf(self) -> i64 {
        let leaves = 1_i64.checked_shl(u32::from((self.level + TILE_HEIGHT).unsigned_abs()));
        let end = leaves.and_then(|it| (self.index + 1).checked_mul(it));
        end.map_or(i64::MAX, |it| it - 1)
    }
}

/// Tiles of one level whose last leaves are in a range of leaves.
pub(super) struct TileRange {
    pub(super) level: i16,
    pub(super) first: i64,
    /// End of the range, exclusive.
    pub(super) end: i64,
}

/// Stored tiles of one tree in one transaction: those that the leaves of a window complete. Leaves are
/// checked in order, so most are found in the window that was read last.
#[derive(Default)]
pub(super) struct TileWindow {
    /// First leaf of the window, and the end, exclusive. Multiples of sixteen.
    first: i64,
    end: i64,
    tiles: HashMap<TilePosition, Vec<u8>>,
}

impl TileWindow {
    /// Returns the stored hash of a leaf, from its tile or from the edge; zeros if it is missing.
    pub(super) async fn leaf_hash(
        &mut self,
        tx: &mut Tx,
        tree: &StoredTree,
        index: i64,
    ) -> Result<Hash> {
        let tile_index = index / TILE_WIDTH;
        let hashes = if tile_index >= tree.size / TILE_WIDTH {
            Some(&*tree.edge)
        } else {
            self.tile(tx, tree, TilePosition { level: 0, index: tile_index }).await?
        };
        let start = usize::try_from(index % TILE_WIDTH).unwrap_or_default() * HASH_LEN;
        let hash = hashes.and_then(|it| it.get(start..start + HASH_LEN)?.try_into().ok());
        Ok(hash.unwrap_or_default())
    }

    /// Returns the stored hashes of a tile; `None` if it is missing.
    pub(super) async fn tile(
        &mut self,
        tx: &mut Tx,
        tree: &StoredTree,
        position: TilePosition,
    ) -> Result<Option<&[u8]>> {
        let last_leaf = position.last_leaf();
        if !(self.first..self.end).contains(&last_leaf) {
            self.first = last_leaf - last_leaf % TILE_WIDTH;
            self.end = self.first.saturating_add(WINDOW);
            self.tiles = store::tiles(tx, tree.number, &self.ranges()).await?;
        }
        Ok(self.tiles.get(&position).map(Vec::as_slice))
    }

    /// Returns the tiles that the leaves of the window complete, level by level.
    fn ranges(&self) -> Vec<TileRange> {
        let range = |position: i16| {
            let level = position * TILE_HEIGHT;
            let height = u32::from((level + TILE_HEIGHT).unsigned_abs());
            let first = self.first.checked_shr(height).unwrap_or_default();
            let end = self.end.checked_shr(height).unwrap_or_default();
            TileRange { level, first, end }
        };
        TILE_LEVELS.map(range).filter(|it| it.first < it.end).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A window has the tiles that its leaves complete, at every level: those whose last leaf is in it.
    #[test]
    fn a_window_has_the_tiles_that_its_leaves_complete() {
        for first in [0, 16, 3_072, 4_080, 65_520, 16 * 65_536] {
            let end = first + WINDOW;
            let window = TileWindow { first, end, tiles: HashMap::new() };
            let mut found: Vec<(i16, i64)> = vec![];
            for TileRange { level, first, end } in window.ranges() {
                found.extend((first..end).map(|index| (level, index)));
            }
            let mut expected = vec![];
            for level in (0..24).step_by(4) {
                for index in 0..end {
                    let last_leaf = TilePosition { level, index }.last_leaf();
                    if (first..end).contains(&last_leaf) {
                        expected.push((level, index));
                    }
                }
            }
            assert_eq!(found, expected, "the window from leaf {first} on");
        }
    }
}
