//! Stored hashes of leaves, in their tiles and at the edge of the tree.

use chassis::{Result, Tx};
use verifier::tree::Hash;

use super::store::{self, StoredTree};

/// Hashes of a complete tile.
const TILE_WIDTH: i64 = 16;
/// Length of a hash in bytes.
const HASH_LEN: usize = 32;

/// Stored hashes of the leaves of one tree in one transaction.
#[derive(Default)]
pub(super) struct LeafHashes {
    /// The tile that was read last: leaves are read in order, sixteen of each tile.
    tile: Option<LeafTile>,
}

/// A stored tile of leaf hashes.
struct LeafTile {
    index: i64,
    hashes: Vec<u8>,
}

impl LeafHashes {
    /// Returns the stored hash of a leaf, from its tile or from the edge; zeros if it is missing.
    pub(super) async fn get(&mut self, tx: &mut Tx, tree: &StoredTree, index: i64) -> Result<Hash> {
        let tile_index = index / TILE_WIDTH;
        let hashes = if tile_index >= tree.size / TILE_WIDTH {
            &tree.edge
        } else {
            if self.tile.as_ref().is_none_or(|it| it.index != tile_index) {
                let hashes = store::tile(tx, tree.number, 0, tile_index).await?.unwrap_or_default();
                self.tile = Some(LeafTile { index: tile_index, hashes });
            }
            self.tile.as_ref().map_or(&tree.edge, |it| &it.hashes)
        };
        let start = usize::try_from(index % TILE_WIDTH).unwrap_or_default() * HASH_LEN;
        let hash = hashes.get(start..start + HASH_LEN).and_then(|it| it.try_into().ok());
        Ok(hash.unwrap_or_default())
    }
}
