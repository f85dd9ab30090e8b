//! Verification of a log by its tiles (C2SP tlog-tiles): that it continues a checkpoint that was verified
//! before, and that every new entry is in the tree of the new one.
//!
//! The tiles at the right edge of the tree hash to the signed root. Every other tile hashes to a hash of the
//! tile above it. So a changed tile is found together with its name, and is not mistaken for a fork.

use std::collections::BTreeMap;

use crate::{
    Checkpoint, VerifyError, malformed,
    tree::{Hash, RootBuilder, leaf_hash, node_hash},
};

/// Hashes of a full tile, and entries of a full bundle.
pub const TILE_WIDTH: u64 = 256;
/// Levels of the tree that a tile spans.
const TILE_HEIGHT: u32 = 8;
/// Levels of tiles of a tree with less than 2^64 leaves.
const LEVELS: u32 = u64::BITS / TILE_HEIGHT;

/// Position of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TileId {
    /// Level of the tile; 0 has the hashes of the leaves.
    pub level: u32,
    /// Index of the tile in its level.
    pub index: u64,
}

/// Tiles and entries of a log. They are not trusted.
pub trait Source {
    /// Failure to read; not a refusal of what was read.
    type Error: From<VerifyError>;

    /// Returns the resource with a path below the prefix of the log (`tile/0/000.p/5`).
    fn tile(&mut self, path: &str) -> impl Future<Output = Result<Vec<u8>, Self::Error>> + Send;

    /// Returns the entries of a range, which is in one bundle, in their order. `None` stands for an entry of
    /// which the log shows only the hash.
    fn entries(
        &mut self,
        range: EntryRange,
    ) -> impl Future<Output = Result<Vec<Option<Vec<u8>>>, Self::Error>> + Send;
}

/// Entries of one bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRange {
    /// Index of the first entry.
    pub first: u64,
    /// Index after that of the last entry.
    pub end: u64,
}

impl EntryRange {
    /// Returns the path of the bundle up to the last entry of the range.
    pub fn path(&self) -> String {
        let index = self.first / TILE_WIDTH;
        format!("tile/entries/{}", with_width(index, self.end - index * TILE_WIDTH))
    }
}

/// New entries that were verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Entries with their content.
    pub entries: u64,
    /// Entries of which the log shows only the hash.
    pub hash_only: u64,
}

impl TileId {
    /// Returns the path of the tile in a tree of `size` leaves.
    pub fn path(&self, size: u64) -> String {
        format!("tile/{}/{}", self.level, with_width(self.index, self.width(size)))
    }

    /// Number of hashes that the tile has in a tree of `size` leaves.
    fn width(&self, size: u64) -> u64 {
        hashes_at(self.level, size).saturating_sub(self.index * TILE_WIDTH).min(TILE_WIDTH)
    }

    /// The tile that has the root of this one, if this one is full.
    fn parent(&self) -> Self {
        Self { level: self.level + 1, index: self.index / TILE_WIDTH }
    }
}

/// Number of hashes of all tiles of a level in a tree of `size` leaves.
fn hashes_at(level: u32, size: u64) -> u64 {
    size.checked_shr(TILE_HEIGHT * level).unwrap_or(0)
}

/// Returns the index in groups of three digits, and the width of a partial tile: `x001/x234/067.p/8`.
fn with_width(index: u64, width: u64) -> String {
    let mut path = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1000);
        rest /= 1000;
    }
    if width < TILE_WIDTH { format!("{path}.p/{width}") } else { path }
}

/// Splits a bundle into its entries: each is preceded by its length in two bytes.
pub fn split_bundle(path: &str, bundle: &[u8]) -> Result<Vec<Vec<u8>>, VerifyError> {
    let mut entries = vec![];
    let mut rest = bundle;
    while !rest.is_empty() {
        let entry = rest.split_first_chunk().and_then(|(length, rest)| {
            rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
        });
        let Some((entry, remaining)) = entry else {
            return Err(malformed(format!("{path} ends within an entry")));
        };
        entries.push(entry.to_vec());
        rest = remaining;
    }
    Ok(entries)
}

/// Verifies that a log at `checkpoint` continues the one at `seen`, if there is one, and that all entries
/// after it are in the tree. Calls `on_entry` with the index and the bytes of each of them.
pub async fn verify<S: Source>(
    source: &mut S,
    seen: Option<&Checkpoint>,
    checkpoint: &Checkpoint,
    mut on_entry: impl FnMut(u64, &[u8]) -> Result<(), VerifyError>,
) -> Result<Verified, S::Error> {
    let seen_size = seen.map_or(0, |it| it.size);
    let size = checkpoint.size;
    if size < seen_size {
        return Err(VerifyError::RolledBack { size, seen: seen_size }.into());
    }
    if let Some(seen) = seen.filter(|it| it.size == size && it.root != checkpoint.root) {
        return Err(VerifyError::Forked { seen: seen.size }.into());
    }
    let mut verified = Verified::default();
    if size == seen_size {
        return Ok(verified);
    }
    let mut tiles = Tiles::open(source, checkpoint).await?;
    if let Some(seen) = seen
        && tiles.root_at(seen.size).await? != seen.root
    {
        return Err(VerifyError::Forked { seen: seen.size }.into());
    }
    let mut next = seen_size;
    while next < size {
        let index = next / TILE_WIDTH;
        let range = EntryRange { first: next, end: size.min((index + 1) * TILE_WIDTH) };
        let hashes = tiles.tile(TileId { level: 0, index }).await?;
        let hashes = hashes.into_iter().skip(position(range.first));
        let entries = tiles.source.entries(range).await?;
        if u64::try_from(entries.len()).ok() != Some(range.end - range.first) {
            return Err(malformed(format!("{} has another number of entries", range.path())).into());
        }
        for ((index, hash), entry) in (range.first..).zip(hashes).zip(entries) {
            let Some(entry) = entry else {
                verified.hash_only += 1;
                continue;
            };
            if leaf_hash(&entry) != hash {
                return Err(VerifyError::ChangedBundle { index, path: range.path() }.into());
            }
            on_entry(index, &entry)?;
            verified.entries += 1;
        }
        next = range.end;
    }
    Ok(verified)
}

/// Position of a hash in its tile.
fn position(index: u64) -> usize {
    usize::try_from(index % TILE_WIDTH).expect("a tile has 256 hashes")
}

/// Verified tiles of a tree.
struct Tiles<'s, S> {
    source: &'s mut S,
    size: u64,
    /// Verified tiles of level 1 and higher, and those at the right edge.
    known: BTreeMap<TileId, Vec<Hash>>,
}

impl<'s, S: Source> Tiles<'s, S> {
    /// Reads the partial tiles at the right edge. Their hashes are the roots of all complete subtrees that
    /// make up the tree, so they are verified with the signed root.
    async fn open(source: &'s mut S, checkpoint: &Checkpoint) -> Result<Self, S::Error> {
        let size = checkpoint.size;
        let mut tiles = Self { source, size, known: BTreeMap::new() };
        let mut edge = vec![];
        for level in 0..LEVELS {
            let id = TileId { level, index: hashes_at(level, size) / TILE_WIDTH };
            if id.width(size) > 0 {
                let hashes = tiles.read(id).await?;
                tiles.known.insert(id, hashes);
                edge.push(id);
            }
        }
        if tiles.root_of_edge(size) == checkpoint.root {
            return Ok(tiles);
        }
        let paths: Vec<String> = edge.iter().map(|it| it.path(size)).collect();
        Err(VerifyError::ChangedTile { path: paths.join(", ") }.into())
    }

    /// Returns a tile whose hashes lead to the signed root.
    async fn tile(&mut self, id: TileId) -> Result<Vec<Hash>, S::Error> {
        // From the tile up to the first verified one.
        let mut path = vec![id];
        while let Some(last) = path.last()
            && !self.known.contains_key(last)
        {
            path.push(last.parent());
        }
        let mut hashes = path.pop().and_then(|it| self.known.get(&it).cloned()).unwrap_or_default();
        while let Some(id) = path.pop() {
            let expected = hashes.get(position(id.index)).copied();
            hashes = self.read(id).await?;
            if expected != Some(root(&hashes)) {
                return Err(VerifyError::ChangedTile { path: id.path(self.size) }.into());
            }
            if id.level > 0 {
                self.known.insert(id, hashes.clone());
            }
        }
        Ok(hashes)
    }

    async fn read(&mut self, id: TileId) -> Result<Vec<Hash>, S::Error> {
        let path = id.path(self.size);
        let bytes = self.source.tile(&path).await?;
        let (hashes, rest) = bytes.as_chunks();
        let width = u64::try_from(hashes.len()).unwrap_or_default();
        if !rest.is_empty() || width != id.width(self.size) {
            return Err(malformed(format!("{path} has another number of hashes")).into());
        }
        Ok(hashes.to_vec())
    }

    /// Returns the root that the tree had at a size.
    async fn root_at(&mut self, size: u64) -> Result<Hash, S::Error> {
        let mut subtrees = vec![];
        for level in (0..LEVELS).rev() {
            let id = TileId { level, index: hashes_at(level, size) / TILE_WIDTH };
            if id.width(size) > 0 {
                let hashes = self.tile(id).await?;
                subtrees.extend(complete_subtrees(&hashes[..position(hashes_at(level, size))]));
            }
        }
        Ok(combine(&subtrees))
    }

    /// Returns the root over the tiles at the right edge, which are known.
    fn root_of_edge(&self, size: u64) -> Hash {
        let edge = (0..LEVELS).rev().filter_map(|level| {
            self.known.get(&TileId { level, index: hashes_at(level, size) / TILE_WIDTH })
        });
        combine(&edge.flat_map(|it| complete_subtrees(it)).collect::<Vec<_>>())
    }
}

/// Returns the roots of the complete subtrees over hashes of one level, largest first.
fn complete_subtrees(hashes: &[Hash]) -> Vec<Hash> {
    let mut roots = vec![];
    let mut rest = hashes;
    while !rest.is_empty() {
        let (subtree, remaining) = rest.split_at(1 << rest.len().ilog2());
        roots.push(root(subtree));
        rest = remaining;
    }
    roots
}

/// Returns the root over a complete subtree.
fn root(hashes: &[Hash]) -> Hash {
    let mut tree = RootBuilder::default();
    for hash in hashes {
        tree.push(*hash);
    }
    tree.root()
}

/// Returns the root over complete subtrees, largest first.
fn combine(subtrees: &[Hash]) -> Hash {
    let mut subtrees = subtrees.iter().rev();
    let Some(last) = subtrees.next() else { return RootBuilder::default().root() };
    subtrees.fold(*last, |right, left| node_hash(left, &right))
}

#[cfg(test)]
mod tests;
