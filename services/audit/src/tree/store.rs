//! SQL statements about trees: locks, edges and tiles.

use std::collections::BTreeMap;

use anyhow::Context;
use chassis::{Db, Result, Tx};
use sqlx::query;
use uuid::Uuid;
use worker::queue::{COUNT_MAX, QueueState};

use super::{SUITE_TREE, Tree};
use crate::{
    damage::Damage,
    db_int::{from_db_int, to_db_int},
    merkle::{Hash, Node},
    tile::{CompleteTile, TileHashes, TileId},
};

/// A tree that is locked for appending.
pub(crate) struct LockedTree {
    pub(crate) org_id: Uuid,
    /// The tree, or the reason for which nothing may be appended to it.
    pub(crate) tree: Result<Tree, Damage>,
}

/// Locks the trees of these organizations against other appends until the end of the transaction; creates
/// missing ones, in the order of their ids. Locks are taken in the order of the numbers, as by the signer, so
/// that concurrent transactions do not deadlock.
pub(crate) async fn lock(tx: &mut Tx, org_ids: &[Uuid]) -> Result<Vec<LockedTree>> {
    let mut trees = lock_existing(tx, org_ids).await?;
    if trees.len() < org_ids.len() {
        query!(
            "insert into tree (org_id) select unnest($1::uuid[]) order by 1 on conflict do nothing",
            org_ids
        )
        .execute(tx.conn())
        .await?;
        trees = lock_existing(tx, org_ids).await?;
    }
    Ok(trees)
}

async fn lock_existing(tx: &mut Tx, org_ids: &[Uuid]) -> Result<Vec<LockedTree>> {
    let rows = query!(
        r#"select number, org_id, size, edge, cause as "cause?", detail as "detail?",
                  exists (select from entry where entry.tree = number and index >= size) as "has_added!"
           from tree left join quarantine using (org_id)
           where org_id = any ($1) order by number for update of tree"#,
        org_ids
    );
    let rows = rows.fetch_all(tx.conn()).await?;
    let locked = rows.into_iter().map(|row| {
        let tree = Tree::from_row(row.number, row.org_id, row.size, &row.edge);
        let tree = match Damage::of_quarantine(row.cause, row.detail) {
            Some(damage) => Err(damage),
            None if row.has_added => {
                Err(Damage::AddedEntry { size: u64::try_from(row.size).unwrap_or_default() })
            }
            None => tree,
        };
        LockedTree { org_id: row.org_id, tree }
    });
    Ok(locked.collect())
}

/// A complete tile of a tree.
pub(crate) struct NewTile {
    pub(crate) tree: i32,
    pub(crate) tile: CompleteTile,
}

/// Stores complete tiles.
pub(crate) async fn insert_tiles(tx: &mut Tx, tiles: &[NewTile]) -> Result<()> {
    let mut trees = vec![];
    let mut levels = vec![];
    let mut indexes = vec![];
    let mut hashes = vec![];
    for NewTile { tree, tile } in tiles {
        trees.push(*tree);
        levels.push(i16::try_from(tile.id.level).context("a tree has at most 64 levels")?);
        indexes.push(to_db_int(tile.id.index)?);
        hashes.push(tile.hashes.as_flattened().to_vec());
    }
    query!(
        "insert into tile (tree, level, index, hashes)
         select unnest($1::integer[]), unnest($2::smallint[]), unnest($3::bigint[]), unnest($4::bytea[])",
        &trees,
        &levels,
        &indexes,
        &hashes,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Stores the size and the edge of trees.
pub(crate) async fn update(tx: &mut Tx, trees: &[Tree]) -> Result<()> {
    // A tree belongs to one organization (no org_id).
    let numbers: Vec<i32> = trees.iter().map(|it| it.number).collect();
    let sizes = trees.iter().map(|it| to_db_int(it.edge.size())).collect::<Result<Vec<_>>>()?;
    let edges: Vec<Vec<u8>> = trees.iter().map(|it| it.edge.encode()).collect();
    query!(
        "update tree set size = new.size, edge = new.edge
         from unnest($1::integer[], $2::bigint[], $3::bytea[]) as new (number, size, edge)
         where tree.number = new.number",
        &numbers,
        &sizes,
        &edges,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Returns the hashes of tree nodes, in the same order, from the edge of the tree and from tiles.
pub(crate) async fn node_hashes(db: &Db, tree: &Tree, nodes: &[Node]) -> Result<Vec<Hash>> {
    let required = tree.edge.required_tiles(nodes);
    let tiles =
        if required.is_empty() { BTreeMap::new() } else { tiles(db, tree, required).await? };
    Ok(tree.edge.node_hashes(nodes, &tiles).ok_or(Damage::MissingHashes)?)
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
    rows.into_iter().map(|it| tile_of_row(it.level, it.index, &it.hashes)).collect()
}

/// Decodes a row of the table `tile`.
pub(crate) fn tile_of_row(level: i16, index: i64, hashes: &[u8]) -> Result<(TileId, TileHashes)> {
    let level = u32::try_from(level).context("table tile: a level is negative")?;
    Ok((TileId { level, index: from_db_int(index)? }, hashes.as_chunks().0.to_vec()))
}

/// A range of leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeafRange {
    pub(crate) first: u64,
    /// End of the range, exclusive.
    pub(crate) end: u64,
}

/// A leaf with its content.
pub(crate) struct StoredLeaf {
    pub(crate) index: u64,
    pub(crate) bytes: Vec<u8>,
}

/// Returns the leaves of a range that are stored with their content, in their order: entries of a tree, or
/// checkpoints of the suite tree.
pub(crate) async fn leaves(db: &Db, tree: &Tree, range: LeafRange) -> Result<Vec<StoredLeaf>> {
    let first = to_db_int(range.first)?;
    let end = to_db_int(range.end)?;
    let leaf = |index: i64, bytes: Vec<u8>| -> Result<StoredLeaf> {
        Ok(StoredLeaf { index: from_db_int(index)?, bytes })
    };
    if tree.org_id == SUITE_TREE {
        let rows = query!(
            "select index, leaf from checkpoint where index >= $1 and index < $2 order by index",
            first,
            end
        );
        let rows = rows.fetch_all(db.pool()).await?;
        return rows.into_iter().map(|it| leaf(it.index, it.leaf.into_bytes())).collect();
    }
    let rows = query!(
        "select index, leaf from entry where tree = $1 and index >= $2 and index < $3 order by index",
        tree.number,
        first,
        end
    );
    let rows = rows.fetch_all(db.pool()).await?;
    rows.into_iter().map(|it| leaf(it.index, it.leaf)).collect()
}

/// Returns the state of the queue of entries that no signed checkpoint covers, except for logs in quarantine,
/// for operators.
pub(crate) async fn unsigned_entries(db: Db) -> Result<QueueState> {
    // Of all organizations (no org_id): only a number and a time.
    let state = query!(
        r#"with unsigned as (
               select number, signed, size - signed as entries from tree
               where signed < size and org_id <> $1
                 and not exists (select from quarantine where quarantine.org_id = tree.org_id)
               order by number limit 500
           )
           select least(coalesce(sum(entries), 0), $2::bigint)::bigint as "waiting!",
                  (select min(received_at) from entry join unsigned on tree = number and index = signed)
                      as oldest_at
           from unsigned"#,
        SUITE_TREE.0,
        COUNT_MAX,
    );
    let state = state.fetch_one(db.pool()).await?;
    Ok(QueueState { waiting: state.waiting, oldest_at: state.oldest_at })
}
