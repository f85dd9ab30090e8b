//! SQL statements that read trees and checkpoints.

use std::collections::BTreeMap;

use anyhow::Context;
use chassis::{Db, OrgId, Result, Tx};
use sqlx::query;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    db_int::{from_db_int, to_db_int},
    log::{SUITE_TREE, Tree},
    merkle::{Hash, Node},
    tile::{TileHashes, TileId},
};

/// A tree with its newest checkpoint.
pub(crate) struct SignedTree {
    pub(crate) tree: Tree,
    /// Entries that the checkpoint covers.
    pub(crate) size: u64,
    /// The checkpoint, as a signed note.
    pub(crate) note: String,
    pub(crate) signed_at: Option<OffsetDateTime>,
    /// Index of the checkpoint in the suite tree.
    pub(crate) suite_index: Option<u64>,
}

/// Returns the tree of an organization; `None` if it has no log yet.
pub(crate) async fn signed_tree(db: &Db, org_id: OrgId) -> Result<Option<SignedTree>> {
    let row = query!(
        "select number, org_id, size, edge, signed, note, signed_at, suite_index from tree
         where org_id = $1",
        org_id.0
    );
    let Some(row) = row.fetch_optional(db.pool()).await? else { return Ok(None) };
    Ok(Some(SignedTree {
        tree: Tree::from_row(row.number, row.org_id, row.size, &row.edge)?,
        size: from_db_int(row.signed)?,
        note: row.note,
        signed_at: row.signed_at,
        suite_index: row.suite_index.map(from_db_int).transpose()?,
    }))
}

/// Returns the hashes of tree nodes, in the same order, from the edge of the tree and from tiles.
pub(crate) async fn node_hashes(db: &Db, tree: &Tree, nodes: &[Node]) -> Result<Vec<Hash>> {
    let required = tree.edge.required_tiles(nodes);
    let tiles =
        if required.is_empty() { BTreeMap::new() } else { tiles(db, tree, required).await? };
    let hashes = tree.edge.node_hashes(nodes, &tiles);
    Ok(hashes.with_context(|| format!("table tile, tree {}: a tile is missing", tree.org_id))?)
}

async fn tiles(
    db: &Db,
    tree: &Tree,
    ids: impl IntoIterator<Item = TileId>,
) -> Result<BTreeMap<TileId, TileHashes>> {
    let mut levels = vec![];
    let mut indexes = vec![];
    for id in ids {
        levels.push(i16::try_from(id.level).context("a tree has at most 64 levels")?);
        indexes.push(to_db_int(id.index)?);
    }
    let rows = query!(
        "select tile.level, tile.index, hashes
         from unnest($2::smallint[], $3::bigint[]) as wanted (level, index)
         join tile on tile.tree = $1 and tile.level = wanted.level and tile.index = wanted.index",
        tree.number,
        &levels,
        &indexes,
    );
    let rows = rows.fetch_all(db.pool()).await?;
    let tile = |level: i16, index: i64, hashes: Vec<u8>| {
        let level = u32::try_from(level).context("table tile: a level is negative")?;
        let id = TileId { level, index: from_db_int(index)? };
        Ok((id, hashes.as_chunks().0.to_vec()))
    };
    rows.into_iter().map(|it| tile(it.level, it.index, it.hashes)).collect()
}

/// A leaf with its index in the tree.
pub(super) struct IndexedLeaf {
    pub(super) index: i64,
    pub(super) bytes: Vec<u8>,
}

/// Returns the leaf of an event in the log of an organization.
pub(super) async fn leaf(db: &Db, org_id: OrgId, event_id: Uuid) -> Result<Option<IndexedLeaf>> {
    let row = query!(
        "select index, leaf from entry
         where event_id = $2 and tree = (select number from tree where org_id = $1)
         order by index limit 1",
        org_id.0,
        event_id
    );
    let row = row.fetch_optional(db.pool()).await?;
    Ok(row.map(|it| IndexedLeaf { index: it.index, bytes: it.leaf }))
}

/// Returns the organization of an event; `None` unless the account is its actor.
pub(super) async fn org_of_event(db: &Db, event_id: Uuid, actor_id: &str) -> Result<Option<OrgId>> {
    // (no org_id): an actor may prove own events in every organization.
    let row = query!(
        "select org_id from entry join tree on tree.number = entry.tree
         join term on term.number = entry.actor
         where event_id = $1 and term.value = $2 limit 1",
        event_id,
        actor_id
    );
    Ok(row.fetch_optional(db.pool()).await?.map(|it| OrgId(it.org_id)))
}

/// Returns the newest checkpoint of the suite tree that has cosignatures.
pub(super) async fn latest_cosigned(db: &Db) -> Result<Option<String>> {
    let row = query!("select note from cosigned order by size desc limit 1");
    Ok(row.fetch_optional(db.pool()).await?.map(|it| it.note))
}

/// Returns the checkpoint of the suite tree at a size with its cosignatures, locked until the end of the
/// transaction.
pub(super) async fn lock_cosigned(tx: &mut Tx, size: i64) -> Result<Option<String>> {
    // Serializes updates, so that concurrent cosignatures do not overwrite each other.
    query!("select number from tree where org_id = $1 for update", SUITE_TREE.0)
        .fetch_optional(tx.conn())
        .await?;
    let row = query!("select note from cosigned where size = $1", size);
    Ok(row.fetch_optional(tx.conn()).await?.map(|it| it.note))
}

/// Stores a checkpoint of the suite tree with its cosignatures.
pub(super) async fn upsert_cosigned(tx: &mut Tx, size: i64, note: &str) -> Result<()> {
    let now = tx.now;
    query!(
        "insert into cosigned (size, note, signed_at) values ($1, $2, $3)
         on conflict (size) do update set note = excluded.note",
        size,
        note,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
