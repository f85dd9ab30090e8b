//! SQL statements about checkpoints.

use std::collections::HashMap;

use anyhow::Context;
use chassis::{Db, Result, Tx};
use sqlx::{query, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    db_int::{from_db_int, to_db_int},
    log::{
        SUITE_TREE, Tree,
        store::{NewTile, insert_tiles, lock_trees, update_trees},
    },
    merkle::leaf_hash,
};

/// Returns trees, except for the suite tree, with entries that their newest checkpoint does not cover.
pub(super) async fn unsigned_trees(db: &Db) -> Result<Vec<Tree>> {
    let rows = query!(
        "select number, org_id, size, edge from tree where signed < size and org_id <> $1
         order by number limit 500",
        SUITE_TREE.0
    );
    let rows = rows.fetch_all(db.pool()).await?;
    rows.into_iter().map(|it| Tree::from_row(it.number, it.org_id, it.size, &it.edge)).collect()
}

/// Returns the suite tree if its newest checkpoint does not cover all leaves.
pub(super) async fn unsigned_suite_tree(db: &Db) -> Result<Option<Tree>> {
    let row = query!(
        "select number, org_id, size, edge from tree where signed < size and org_id = $1",
        SUITE_TREE.0
    );
    let row = row.fetch_optional(db.pool()).await?;
    row.map(|it| Tree::from_row(it.number, it.org_id, it.size, &it.edge)).transpose()
}

/// Returns the sizes of all trees, by organization.
pub(super) async fn tree_sizes(db: &Db) -> Result<HashMap<Uuid, u64>> {
    let rows = query!("select org_id, size from tree").fetch_all(db.pool()).await?;
    rows.into_iter().map(|it| Ok((it.org_id, from_db_int(it.size)?))).collect()
}

/// Returns the time of the newest leaf of the suite tree.
pub(super) async fn last_suite_leaf_at(db: &Db) -> Result<Option<OffsetDateTime>> {
    let last = query_scalar!("select signed_at from checkpoint order by index desc limit 1");
    Ok(last.fetch_optional(db.pool()).await?)
}

/// A leaf of the suite tree.
pub(super) enum SuiteLeaf {
    /// A new checkpoint of another tree.
    Checkpoint {
        /// Number of the tree.
        tree: i32,
        size: u64,
        note: String,
    },
    /// Evidence that the log is running, while no tree grows.
    Heartbeat(String),
}

impl SuiteLeaf {
    fn tree(&self) -> Option<i32> {
        match self {
            Self::Checkpoint { tree, .. } => Some(*tree),
            Self::Heartbeat(_) => None,
        }
    }

    fn size(&self) -> u64 {
        match self {
            Self::Checkpoint { size, .. } => *size,
            Self::Heartbeat(_) => 0,
        }
    }

    fn into_text(self) -> String {
        match self {
            Self::Checkpoint { note, .. } => note,
            Self::Heartbeat(text) => text,
        }
    }
}

/// Stores checkpoints and appends them to the suite tree. Checkpoints that another replica has published
/// meanwhile are skipped.
pub(super) async fn publish(tx: &mut Tx, leaves: Vec<SuiteLeaf>) -> Result<()> {
    let now = tx.now;
    let mut suite = lock_trees(tx, &[SUITE_TREE.0]).await?;
    let suite_tree = suite.first_mut().context("the suite tree is locked")?;
    let numbers: Vec<i32> = leaves.iter().filter_map(SuiteLeaf::tree).collect();
    let signed = query!("select number, signed from tree where number = any ($1)", &numbers);
    let signed = signed.fetch_all(tx.conn()).await?;
    let signed: HashMap<i32, i64> = signed.into_iter().map(|it| (it.number, it.signed)).collect();
    let mut completed_tiles = vec![];
    let mut indexes = vec![];
    let mut trees = vec![];
    let mut sizes = vec![];
    let mut texts = vec![];
    for leaf in leaves {
        let size = to_db_int(leaf.size())?;
        let signed_size = leaf.tree().and_then(|it| signed.get(&it)).copied().unwrap_or(0);
        if leaf.tree().is_some() && size <= signed_size {
            continue;
        }
        indexes.push(to_db_int(suite_tree.edge.size())?);
        // 0 becomes null in the statement.
        trees.push(leaf.tree().unwrap_or(0));
        sizes.push(size);
        let text = leaf.into_text();
        suite_tree.edge.append(leaf_hash(text.as_bytes()), &mut completed_tiles);
        texts.push(text);
    }
    let new_tile = |tile| NewTile { tree: suite_tree.number, tile };
    let tiles: Vec<_> = completed_tiles.into_iter().map(new_tile).collect();
    query!(
        "with new as (
             select index, nullif(tree, 0) as tree, size, leaf
             from unnest($1::bigint[], $2::integer[], $3::bigint[], $4::text[])
                  as new (index, tree, size, leaf)
         ), signed as (
             update tree set signed = new.size, note = new.leaf, signed_at = $5, suite_index = new.index
             from new where new.tree = tree.number
         )
         insert into checkpoint (index, tree, size, leaf, signed_at)
         select index, tree, size, leaf, $5 from new",
        &indexes,
        &trees,
        &sizes,
        &texts,
        now,
    )
    .execute(tx.conn())
    .await?;
    if !tiles.is_empty() {
        insert_tiles(tx, &tiles).await?;
    }
    update_trees(tx, &suite).await?;
    // Wakes calls that wait for a checkpoint.
    tx.wake();
    Ok(())
}

/// Stores the newest checkpoint of the suite tree.
pub(super) async fn set_suite_checkpoint(tx: &mut Tx, size: u64, note: &str) -> Result<()> {
    let now = tx.now;
    query!(
        "update tree set signed = $2, note = $3, signed_at = $4 where org_id = $1 and signed < $2",
        SUITE_TREE.0,
        to_db_int(size)?,
        note,
        now,
    )
    .execute(tx.conn())
    .await?;
    tx.wake();
    Ok(())
}
