//! Storage of tree nodes as tiles of sixteen hashes at every fourth level, plus the right edge of hashes that
//! do not fill a tile yet. Sixteen such tiles side by side are one tile of C2SP tlog-tiles.

use std::collections::{BTreeMap, BTreeSet};

use crate::merkle::{Hash, Node, complete_subtrees, node_hash, root_of_subtrees};

/// Levels of the tree that one tile spans.
const TILE_HEIGHT: u32 = 4;
/// Hashes of a complete tile.
const TILE_WIDTH: usize = 1 << TILE_HEIGHT;

/// Position of a tile: its hashes are the nodes from `index * 16` on at `level`, a multiple of four.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TileId {
    pub(crate) level: u32,
    pub(crate) index: u64,
}

/// Hashes of a tile: sixteen, or fewer at the right edge.
pub(crate) type TileHashes = Vec<Hash>;

/// A tile that is full and does not change any more.
#[derive(Clone, Debug)]
pub(crate) struct CompleteTile {
    pub(crate) id: TileId,
    pub(crate) hashes: TileHashes,
}

/// Right edge of a growing tree: at each tile level, the hashes that do not fill a tile yet. Enough to append
/// leaves and to compute the root without reading tiles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edge {
    size: u64,
    levels: Vec<TileHashes>,
}

impl Edge {
    /// Decodes the result of [`Edge::encode`]; `None` if it does not fit a tree of this size.
    pub(crate) fn decode(size: u64, bytes: &[u8]) -> Option<Self> {
        let mut levels = vec![];
        let mut rest = bytes;
        let tile_levels = (0..u64::BITS).step_by(TILE_HEIGHT as usize);
        for level in tile_levels.take_while(|level| size >> level > 0) {
            let count = usize::try_from(size >> level).ok()? % TILE_WIDTH;
            let (hashes, remaining) = rest.split_at_checked(count * size_of::<Hash>())?;
            levels.push(hashes.as_chunks().0.to_vec());
            rest = remaining;
        }
        rest.is_empty().then_some(Self { size, levels })
    }

    /// Encodes the hashes, lowest level first. Their number at each level follows from the size.
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.levels.iter().flatten().flatten().copied().collect()
    }

    /// Number of leaves of the tree.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf and adds the tiles that it completes to `completed`.
    pub(crate) fn append(&mut self, leaf: Hash, completed: &mut Vec<CompleteTile>) {
        let leaf_index = self.size;
        self.size += 1;
        let mut hash = leaf;
        for (position, level) in (0..).step_by(TILE_HEIGHT as usize).enumerate() {
            if self.levels.len() == position {
                self.levels.push(vec![]);
            }
            let hashes = &mut self.levels[position];
            hashes.push(hash);
            if hashes.len() < TILE_WIDTH {
                return;
            }
            hash = complete_subtree_root(hashes);
            let id = TileId { level, index: leaf_index >> (level + TILE_HEIGHT) };
            completed.push(CompleteTile { id, hashes: std::mem::take(hashes) });
        }
    }

    /// Returns the root of the tree; `None` if it is empty.
    pub(crate) fn root(&self) -> Option<Hash> {
        self.root_at(self.size)
    }

    /// Returns the root of the first `size` leaves; `None` if there are none, or if it takes complete tiles.
    pub(crate) fn root_at(&self, size: u64) -> Option<Hash> {
        let subtrees = complete_subtrees(0, size);
        root_of_subtrees(&self.node_hashes(&subtrees, &BTreeMap::new())?)
    }

    /// Returns the complete tiles that hold these nodes; nodes at the edge need none.
    pub(crate) fn required_tiles<'n>(
        &self,
        nodes: impl IntoIterator<Item = &'n Node>,
    ) -> BTreeSet<TileId> {
        let tiles = nodes.into_iter().map(|node| NodeLocation::of(*node).tile);
        tiles.filter(|tile| self.partial_tile(*tile).is_none()).collect()
    }

    /// Returns the hashes of these nodes from the edge and from `tiles`; `None` if a tile is missing.
    pub(crate) fn node_hashes(
        &self,
        nodes: &[Node],
        tiles: &BTreeMap<TileId, TileHashes>,
    ) -> Option<Vec<Hash>> {
        let hash = |node: &Node| {
            let NodeLocation { tile, first, count } = NodeLocation::of(*node);
            let hashes = self.partial_tile(tile).or_else(|| tiles.get(&tile))?;
            hashes.get(first..first + count).map(complete_subtree_root)
        };
        nodes.iter().map(hash).collect()
    }

    /// Returns the hashes of a tile that is not complete yet; `None` for any other tile.
    fn partial_tile(&self, tile: TileId) -> Option<&TileHashes> {
        let last_index = self.size >> (tile.level + TILE_HEIGHT);
        let position = (tile.level / TILE_HEIGHT) as usize;
        self.levels.get(position).filter(|_| tile.index == last_index)
    }
}

/// Hashes of a tile that a node covers: `count` hashes from `first` on.
struct NodeLocation {
    tile: TileId,
    first: usize,
    count: usize,
}

impl NodeLocation {
    fn of(node: Node) -> Self {
        let height_in_tile = node.level % TILE_HEIGHT;
        let first = node.index << height_in_tile;
        Self {
            tile: TileId { level: node.level - height_in_tile, index: first >> TILE_HEIGHT },
            first: usize::try_from(first).unwrap_or(usize::MAX) % TILE_WIDTH,
            count: 1 << height_in_tile,
        }
    }
}

/// Returns the root of a complete subtree over its hashes, whose number is a power of two.
fn complete_subtree_root(hashes: &[Hash]) -> Hash {
    if let [hash] = hashes {
        return *hash;
    }
    let (left, right) = hashes.split_at(hashes.len() / 2);
    node_hash(&complete_subtree_root(left), &complete_subtree_root(right))
}

#[cfg(test)]
mod tests;
