//! SQL statements of the check. They read the logs of all organizations.

pub(super) mod run;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::RangeInclusive,
};

use chassis::{Db, Result, Tx};
use futures::TryStreamExt;
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::tile_window::{TilePosition, TileRange};
use crate::log::store::TermNumbers;

/// Entries or leaves that are read at once.
pub(super) const PAGE: i64 = 1_000;

/// A row of the table `tree`.
pub(super) struct StoredTree {
    pub(super) number: i32,
    pub(super) org_id: Uuid,
    pub(super) size: i64,
    pub(super) edge: Vec<u8>,
    pub(super) signed: i64,
    pub(super) note: String,
    pub(super) purged_before: i64,
}

/// Returns the organizations of all trees.
pub(super) async fn tree_ids(db: &Db) -> Result<Vec<Uuid>> {
    // All organizations, for the check of the whole log (no org_id).
    let org_ids = query_scalar!("select org_id from tree order by number");
    Ok(org_ids.fetch_all(db.pool()).await?)
}

/// Makes all statements of a transaction read one snapshot. Must be its first statement.
pub(super) async fn begin_snapshot(tx: &mut Tx) -> Result<()> {
    query!("set transaction isolation level repeatable read, read only").execute(tx.conn()).await?;
    // Statements on the largest logs take longer than those of calls may.
    query!("set local statement_timeout = '5min'").execute(tx.conn()).await?;
    Ok(())
}

/// Returns a tree.
pub(super) async fn tree(tx: &mut Tx, org_id: Uuid) -> Result<StoredTree> {
    let tree = query_as!(
        StoredTree,
        "select number, org_id, size, edge, signed, note, purged_before from tree where org_id = $1",
        org_id
    );
    Ok(tree.fetch_one(tx.conn()).await?)
}

/// An entry with the numbers of its index terms.
pub(super) struct StoredEntry {
    pub(super) index: i64,
    pub(super) event_id: Uuid,
    pub(super) outcome: i16,
    pub(super) leaf: Vec<u8>,
    pub(super) terms: TermNumbers,
}

/// Reads the next entries of a tree from an index on, [`PAGE`] at most. `visit` is called with each as soon
/// as it arrives, while the server reads the next ones.
pub(super) async fn for_each_entry(
    tx: &mut Tx,
    tree: i32,
    from: i64,
    mut visit: impl FnMut(StoredEntry),
) -> Result<()> {
    // (no org_id): the check reads every log.
    let rows = query!(
        "select index, event_id, outcome, leaf, actor, resource, type, project, environment, action
         from entry where tree = $1 and index >= $2 order by index limit $3",
        tree,
        from,
        PAGE,
    );
    let mut rows = rows.fetch(tx.conn());
    while let Some(row) = rows.try_next().await? {
        visit(StoredEntry {
            index: row.index,
            event_id: row.event_id,
            outcome: row.outcome,
            leaf: row.leaf,
            terms: TermNumbers {
                actor: row.actor,
                resource: row.resource,
                resource_kind: row.r#type,
                action: row.action,
                project: row.project,
                environment: row.environment,
            },
        });
    }
    Ok(())
}

/// Index terms by number.
pub(super) type Terms = HashMap<i32, StoredTerm>;

/// An index term.
pub(super) struct StoredTerm {
    /// Number of a [`crate::search_index::TermKind`].
    pub(super) kind: i16,
    pub(super) value: String,
}

/// Returns index terms of a tree. Those of other trees, and missing ones, are left out.
pub(super) async fn terms(tx: &mut Tx, tree: i32, numbers: &BTreeSet<i32>) -> Result<Terms> {
    // (no org_id): the check reads every log.
    let numbers: Vec<i32> = numbers.iter().copied().collect();
    let rows = query!(
        "select number, kind, value from term where number = any ($2) and tree = $1",
        tree,
        &numbers
    );
    let rows = rows.fetch_all(tx.conn()).await?;
    let term = |kind, value| StoredTerm { kind, value };
    Ok(rows.into_iter().map(|it| (it.number, term(it.kind, it.value))).collect())
}

/// Returns the tiles of some ranges, of 64 tiles at most, with their hashes.
pub(super) async fn tiles(
    tx: &mut Tx,
    tree: i32,
    ranges: &[TileRange],
) -> Result<HashMap<TilePosition, Vec<u8>>> {
    // (no org_id): the check reads every log.
    let levels: Vec<i16> = ranges.iter().map(|it| it.level).collect();
    let firsts: Vec<i64> = ranges.iter().map(|it| it.first).collect();
    let ends: Vec<i64> = ranges.iter().map(|it| it.end).collect();
    let rows = query!(
        "select found.level, found.index, found.hashes
         from unnest($2::smallint[], $3::bigint[], $4::bigint[]) as wanted (level, first, after)
         cross join lateral (
             select level, index, hashes from tile
             where tree = $1 and tile.level = wanted.level and index >= first and index < after
             order by index limit 64
         ) as found",
        tree,
        &levels,
        &firsts,
        &ends,
    );
    let rows = rows.fetch_all(tx.conn()).await?;
    let position = |level, index| TilePosition { level, index };
    Ok(rows.into_iter().map(|it| (position(it.level, it.index), it.hashes)).collect())
}

/// Returns the number of tiles of a tree.
pub(super) async fn tile_count(tx: &mut Tx, tree: i32) -> Result<i64> {
    // (no org_id): the check reads every log.
    let count = query!(r#"select count(*) as "count!" from tile where tree = $1"#, tree);
    Ok(count.fetch_one(tx.conn()).await?.count)
}

/// Returns the checkpoints of a tree whose sizes are in a range, by size.
pub(super) async fn checkpoints(
    tx: &mut Tx,
    tree: i32,
    sizes: RangeInclusive<i64>,
) -> Result<BTreeMap<i64, String>> {
    let rows = query!(
        "select size, leaf from checkpoint where tree = $1 and size between $2 and $3",
        tree,
        sizes.start(),
        sizes.end()
    );
    Ok(rows.fetch_all(tx.conn()).await?.into_iter().map(|it| (it.size, it.leaf)).collect())
}

/// A leaf of the suite tree.
pub(super) struct SuiteLeaf {
    pub(super) index: i64,
    /// A checkpoint or a heartbeat.
    pub(super) text: String,
}

/// Returns the next leaves of the suite tree from an index on.
pub(super) async fn suite_leaves(tx: &mut Tx, from: i64) -> Result<Vec<SuiteLeaf>> {
    // The suite tree has the checkpoints of all organizations (no org_id).
    let rows = query!(
        "select index, leaf from checkpoint where index >= $1 order by index limit $2",
        from,
        PAGE
    );
    let rows = rows.fetch_all(tx.conn()).await?;
    Ok(rows.into_iter().map(|it| SuiteLeaf { index: it.index, text: it.leaf }).collect())
}

/// Returns the last appended sequence number of each service in a tree, as stored.
pub(super) async fn last_sequences(tx: &mut Tx, tree: i32) -> Result<BTreeMap<String, i64>> {
    let rows = query!("select source, sequence from producer where tree = $1", tree);
    Ok(rows.fetch_all(tx.conn()).await?.into_iter().map(|it| (it.source, it.sequence)).collect())
}
