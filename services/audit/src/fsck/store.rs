//! SQL statements of the check. They read the logs of all organizations.

pub(super) mod run;

use std::{collections::BTreeMap, ops::RangeInclusive};

use chassis::{Db, Result, Tx};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

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

/// An entry with its index terms.
pub(super) struct StoredEntry {
    pub(super) index: i64,
    pub(super) event_id: Uuid,
    pub(super) outcome: i16,
    pub(super) leaf: Vec<u8>,
    /// Terms as `kind:value`.
    pub(super) terms: Vec<String>,
}

/// Returns the next entries of a tree from an index on.
pub(super) async fn entries(tx: &mut Tx, tree: i32, from: i64) -> Result<Vec<StoredEntry>> {
    // (no org_id): the check reads every log.
    let rows = query!(
        r#"select index, event_id, outcome, leaf,
                  array(select kind || ':' || value from term
                        where number in (actor, resource, type, project, environment, action)
                          and term.tree = entry.tree) as "terms!"
           from entry where tree = $1 and index >= $2 order by index limit $3"#,
        tree,
        from,
        PAGE,
    );
    let rows = rows.fetch_all(tx.conn()).await?;
    let entries = rows.into_iter().map(|row| StoredEntry {
        index: row.index,
        event_id: row.event_id,
        outcome: row.outcome,
        leaf: row.leaf,
        terms: row.terms,
    });
    Ok(entries.collect())
}

/// Returns the hashes of a tile.
pub(super) async fn tile(
    tx: &mut Tx,
    tree: i32,
    level: i16,
    index: i64,
) -> Result<Option<Vec<u8>>> {
    // (no org_id): the check reads every log.
    let tile = query!(
        "select hashes from tile where tree = $1 and level = $2 and index = $3",
        tree,
        level,
        index
    );
    Ok(tile.fetch_optional(tx.conn()).await?.map(|it| it.hashes))
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
