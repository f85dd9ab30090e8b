//! How the nodes of a tree are kept: as tiles of sixteen hashes, at every fourth level, and an edge of those
//! that fill no tile yet. Sixteen of them side by side are a tile of C2SP tlog-tiles.

use std::collections::{BTreeMap, BTreeSet};

use crate::merkle::{Hash, Node, cover, fold, node_hash};

/// Levels of a tree that one tile spans.
const SPAN: u32 = 4;
/// Hashes of a tile.
const WIDTH: usize = 1 << SPAN;

/// Which tile: its hashes are the nodes `index * 16` and on of `level`, a multiple of four.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) level: u32,
    pub(crate) index: u64,
}

/// The hashes of a tile; fewer than sixteen at the edge.
pub(crate) type Tile = Vec<Hash>;

/// A tree that grows: at each level of tiles, the hashes that fill no tile yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edge {
    size: u64,
    levels: Vec<Tile>,
}

impl Edge {
    /// Reads what [`Edge::bytes`] wrote; `None` if it does not belong to a tree of this size.
    pub(crate) fn parse(size: u64, bytes: &[u8]) -> Option<Self> {
        let (mut levels, mut rest) = (vec![], bytes);
        for level in (0..u64::BITS).step_by(SPAN as usize).take_while(|it| size >> it > 0) {
            let length = usize::try_from(size >> level).ok()? % WIDTH * size_of::<Hash>();
            let (hashes, more) = rest.split_at_checked(length)?;
            levels.push(hashes.as_chunks().0.to_vec());
            rest = more;
        }
        rest.is_empty().then_some(Self { size, levels })
    }

    /// The hashes, from the lowest level up. How many there are of each follows from the size.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.levels.iter().flatten().flatten().copied().collect()
    }

    /// Leaves so far.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf; the tiles that it completes go to `tiles`.
    pub(crate) fn append(&mut self, leaf: Hash, tiles: &mut Vec<(Place, Tile)>) {
        let (mut hash, size) = (leaf, self.size);
        self.size += 1;
        for (level, above) in (0..).step_by(SPAN as usize).enumerate() {
            if self.levels.len() == level {
                self.levels.push(vec![]);
            }
            let tile = &mut self.levels[level];
            tile.push(hash);
            if tile.len() < WIDTH {
                return;
            }
            hash = perfect(tile);
            tiles.push((
                Place { level: above, index: size >> (above + SPAN) },
                std::mem::take(tile),
            ));
        }
    }

    /// The root; none of an empty tree.
    pub(crate) fn root(&self) -> Option<Hash> {
        fold(&self.hashes(&cover(0, self.size), &BTreeMap::new())?)
    }

    /// The tiles that hold these nodes, but for those at the edge.
    pub(crate) fn tiles_of<'n>(
        &self,
        nodes: impl IntoIterator<Item = &'n Node>,
    ) -> BTreeSet<Place> {
        nodes.into_iter().map(|it| place(*it).0).filter(|it| self.tile(*it).is_none()).collect()
    }

    /// The hashes of these nodes, from the edge and from `tiles`; `None` if one of them is not there.
    pub(crate) fn hashes(
        &self,
        nodes: &[Node],
        tiles: &BTreeMap<Place, Tile>,
    ) -> Option<Vec<Hash>> {
        let hash = |node: &Node| {
            let (place, from, length) = place(*node);
            let tile = self.tile(place).or_else(|| tiles.get(&place))?;
            tile.get(from..from + length).map(perfect)
        };
        nodes.iter().map(hash).collect()
    }

    /// The tile of this place, if it is the one at the edge.
    fn tile(&self, place: Place) -> Option<&Tile> {
        let last = self.size >> (place.level + SPAN);
        self.levels.get((place.level / SPAN) as usize).filter(|_| place.index == last)
    }
}

/// Where a node is: its tile, and which hashes of it the node covers.
fn place(node: Node) -> (Place, usize, usize) {
    let above = node.level % SPAN;
    let first = node.index << above;
    let from = usize::try_from(first).unwrap_or(usize::MAX) % WIDTH;
    (Place { level: node.level - above, index: first >> SPAN }, from, 1 << above)
}

/// The root over a complete subtree.
fn perfect(hashes: &[Hash]) -> Hash {
    if let [one] = hashes {
        return *one;
    }
    let (left, right) = hashes.split_at(hashes.len() / 2);
    node_hash(&perfect(left), &perfect(right))
}

#[cfg(test)]
mod tests;
