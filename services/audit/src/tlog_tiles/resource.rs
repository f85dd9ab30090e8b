//! Content of tiles and bundles of entries, from what is stored. Nothing is recomputed: the reader verifies.

use anyhow::Context;
use chassis::{Db, Result};

use super::{TILE_HEIGHT, TileRange};
use crate::{
    damage::Damage,
    db_int::{from_db_int, to_db_int},
    entry::{
        search::TimeRange,
        store::{purged_before, visible_range},
    },
    integrity::guard::LogGuard,
    leaf_codec::LeafCodec,
    merkle::Node,
    proof::store::SignedTree,
    tree::{
        self, SUITE_TREE,
        store::{LeafRange, StoredLeaf},
    },
    url_credential,
};

/// Reader of the tiles of one log.
pub(super) struct TileReader<'r> {
    pub(super) db: &'r Db,
    pub(super) guard: &'r LogGuard,
    pub(super) codec: &'r LeafCodec,
    pub(super) signed: &'r SignedTree,
}

/// Content of a bundle, unless entries of it are not shown.
pub(super) enum Bundle {
    /// Entries, each after its length in two bytes.
    Complete(Vec<u8>),
    Incomplete(HiddenEntries),
}

/// Entries that a bundle cannot contain, because only their hashes are shown. `first` and `last` are
/// inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HiddenEntries {
    /// Past the retention of the plan; purged later.
    #[error(
        "entries {first} to {last} are older than the retention of the plan, so only their hashes are \
         available"
    )]
    Expired { first: u64, last: u64 },
    /// The leaf has a credential in a URL.
    #[error(
        "entry {index} has a credential in a URL, which an older version recorded, so only its hash is \
         available"
    )]
    Withheld { index: u64 },
}

impl TileReader<'_> {
    /// Returns the hashes of a tile that the checkpoint covers.
    pub(super) async fn tile(&self, level: u32, range: TileRange) -> Result<Vec<u8>> {
        let node = |index| Node { level: TILE_HEIGHT * level, index };
        let nodes: Vec<Node> = (range.first()..range.end()).map(node).collect();
        let hashes = tree::store::node_hashes(self.db, &self.signed.tree, &nodes).await;
        let hashes = self.guard.contain(self.signed.tree.org_id.0, hashes).await?;
        Ok(hashes.into_flattened())
    }

    /// Returns entries that the checkpoint covers.
    pub(super) async fn bundle(&self, range: LeafRange) -> Result<Bundle> {
        let bundle = self.try_bundle(range).await;
        self.guard.contain(self.signed.tree.org_id.0, bundle).await
    }

    async fn try_bundle(&self, range: LeafRange) -> Result<Bundle> {
        if let Some(hidden) = self.expired(range).await? {
            return Ok(Bundle::Incomplete(hidden));
        }
        let leaves = tree::store::leaves(self.db, &self.signed.tree, range).await?;
        let found =
            leaves.iter().zip(range.first..).take_while(|(leaf, index)| leaf.index == *index);
        let missing = range.first + u64::try_from(found.count()).unwrap_or_default();
        if missing < range.end {
            let purged = purged_before(self.db, self.signed.tree.number).await?;
            return if to_db_int(missing)? < purged {
                Ok(Bundle::Incomplete(HiddenEntries::Expired { first: range.first, last: missing }))
            } else {
                Err(Damage::MissingEntry { index: missing }.into())
            };
        }
        let mut bytes = vec![];
        for StoredLeaf { index, bytes: leaf } in leaves {
            if self.is_withheld(&leaf) {
                return Ok(Bundle::Incomplete(HiddenEntries::Withheld { index }));
            }
            let length = u16::try_from(leaf.len()).context("a leaf has at most 65,535 bytes")?;
            bytes.extend(length.to_be_bytes());
            bytes.extend(leaf);
        }
        Ok(Bundle::Complete(bytes))
    }

    /// Returns the entries of a range that are past the retention (AU-9).
    async fn expired(&self, range: LeafRange) -> Result<Option<HiddenEntries>> {
        let org_id = self.signed.tree.org_id;
        if org_id == SUITE_TREE {
            return Ok(None);
        }
        let times = TimeRange::default();
        let visible = visible_range(self.db, &self.guard.heads, org_id, times).await?;
        let visible_from =
            visible.map(|it| from_db_int(it.first)).transpose()?.unwrap_or(range.end);
        let end = visible_from.min(range.end);
        let hidden = HiddenEntries::Expired { first: range.first, last: end.saturating_sub(1) };
        Ok((range.first < end).then_some(hidden))
    }

    fn is_withheld(&self, leaf: &[u8]) -> bool {
        self.signed.tree.org_id != SUITE_TREE
            && url_credential::is_in_leaf(&self.codec.descriptors, leaf)
    }
}
