//! Every SQL statement of the check. It reads whole logs, so nothing here is bound to one tenant.

use std::collections::BTreeMap;

use chassis::{Db, Result};
use sqlx::{query, query_as};
use uuid::Uuid;

/// A tree, as it is stored.
pub(crate) struct Tree {
    pub(crate) number: i32,
    pub(crate) org_id: Uuid,
    pub(crate) size: i64,
    pub(crate) edge: Vec<u8>,
    pub(crate) signed: i64,
    pub(crate) note: String,
    pub(crate) purged_before: i64,
}

/// Every tree.
pub(crate) async fn trees(db: &Db) -> Result<Vec<Tree>> {
    let trees = query_as!(
        Tree,
        "select number, org_id, size, edge, signed, note, purged_before from tree order by number"
    );
    Ok(trees.fetch_all(db.pool()).await?)
}

/// An entry, as it is stored, with the facts that it is found by.
pub(crate) struct Entry {
    pub(crate) index: i64,
    pub(crate) event_id: Uuid,
    pub(crate) outcome: i16,
    pub(crate) leaf: Vec<u8>,
    pub(crate) facts: Vec<String>,
}

/// The next entries of a tree.
pub(crate) async fn entries(db: &Db, tree: i32, from: i64) -> Result<Vec<Entry>> {
    // (no org_id): the check reads every log.
    let entries = query_as!(
        Entry,
        r#"select index, event_id, outcome, leaf,
                  array(select kind || ':' || value from term
                        where number in (actor, resource, type, project, environment, action)
                          and term.tree = entry.tree) as "facts!"
           from entry where tree = $1 and index >= $2 order by index limit 1000"#,
        tree,
        from,
    );
    Ok(entries.fetch_all(db.pool()).await?)
}

/// The tiles of a tree at one level, from an index on.
pub(crate) async fn tile(db: &Db, tree: i32, level: i16, index: i64) -> Result<Option<Vec<u8>>> {
    // (no org_id): it is as above.
    let tile = query!(
        "select hashes from tile where tree = $1 and level = $2 and index = $3",
        tree,
        level,
        index
    );
    Ok(tile.fetch_optional(db.pool()).await?.map(|it| it.hashes))
}

/// How many tiles a tree has.
pub(crate) async fn tiles(db: &Db, tree: i32) -> Result<i64> {
    // (no org_id): it is as above.
    let count = query!(r#"select count(*) as "count!" from tile where tree = $1"#, tree);
    Ok(count.fetch_one(db.pool()).await?.count)
}

/// The signed heads of a tree, by size.
pub(crate) async fn heads(db: &Db, tree: i32) -> Result<BTreeMap<i64, String>> {
    let rows = query!("select size, leaf from checkpoint where tree = $1", tree);
    Ok(rows.fetch_all(db.pool()).await?.into_iter().map(|it| (it.size, it.leaf)).collect())
}

/// The leaves of the suite's tree.
pub(crate) async fn suite(db: &Db, from: i64) -> Result<Vec<(i64, String)>> {
    let rows = query!(
        "select index, leaf from checkpoint where index >= $1 order by index limit 1000",
        from
    );
    Ok(rows.fetch_all(db.pool()).await?.into_iter().map(|it| (it.index, it.leaf)).collect())
}

/// How far the log says that each service has come.
pub(crate) async fn lanes(db: &Db, tree: i32) -> Result<BTreeMap<String, i64>> {
    let rows = query!("select source, sequence from producer where tree = $1", tree);
    Ok(rows.fetch_all(db.pool()).await?.into_iter().map(|it| (it.source, it.sequence)).collect())
}
