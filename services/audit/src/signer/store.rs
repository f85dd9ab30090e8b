//! Every SQL statement about signed heads.

use std::collections::HashMap;

use anyhow::Context;
use chassis::{Db, OrgId, Result, Tx};
use sqlx::{query, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    log::{
        SUITE, Tree,
        store::{grow, insert_tiles, loaded, lock, stored},
    },
    merkle::leaf_hash,
    tile::Edge,
};

/// Trees that have grown beyond their newest signed head, but for the suite's.
pub(crate) async fn unsigned(db: &Db) -> Result<Vec<Tree>> {
    let rows = query!(
        "select number, org_id, size, edge from tree where signed < size and org_id <> $1
         order by number limit 500",
        SUITE.0
    );
    let rows = rows.fetch_all(db.pool()).await?;
    rows.into_iter().map(|it| tree(it.number, it.org_id, it.size, &it.edge)).collect()
}

/// The suite's tree, if it has grown beyond its newest signed head.
pub(crate) async fn unsigned_suite(db: &Db) -> Result<Option<Tree>> {
    let row = query!(
        "select number, org_id, size, edge from tree where signed < size and org_id = $1",
        SUITE.0
    );
    let row = row.fetch_optional(db.pool()).await?;
    row.map(|it| tree(it.number, it.org_id, it.size, &it.edge)).transpose()
}

pub(crate) fn tree(number: i32, org_id: Uuid, size: i64, edge: &[u8]) -> Result<Tree> {
    let edge = Edge::parse(loaded(size)?, edge);
    let edge =
        edge.with_context(|| format!("table tree, {org_id}: the edge does not fit the size"))?;
    Ok(Tree { number, org_id: OrgId(org_id), edge })
}

/// The sizes of all trees, by organization.
pub(crate) async fn sizes(db: &Db) -> Result<HashMap<Uuid, u64>> {
    let rows = query!("select org_id, size from tree").fetch_all(db.pool()).await?;
    rows.into_iter().map(|it| Ok((it.org_id, loaded(it.size)?))).collect()
}

/// When the newest leaf of the suite's tree was made.
pub(crate) async fn last(db: &Db) -> Result<Option<OffsetDateTime>> {
    let last = query_scalar!("select signed_at from checkpoint order by index desc limit 1");
    Ok(last.fetch_optional(db.pool()).await?)
}

/// A leaf of the suite's tree: a signed head, or a heartbeat.
pub(crate) struct Signed {
    pub(crate) tree: Option<i32>,
    pub(crate) size: u64,
    pub(crate) leaf: String,
}

/// Publishes signed heads: stores them, and puts them into the suite's tree. What another replica has
/// published meanwhile is left out.
pub(crate) async fn publish(tx: &mut Tx, leaves: Vec<Signed>) -> Result<()> {
    let now = tx.now;
    let mut suite = lock(tx, &[SUITE.0]).await?;
    let edge = &mut suite.first_mut().context("the suite has a tree")?.edge;
    let numbers: Vec<i32> = leaves.iter().filter_map(|it| it.tree).collect();
    let signed = query!("select number, signed from tree where number = any ($1)", &numbers);
    let signed = signed.fetch_all(tx.conn()).await?;
    let signed: HashMap<i32, i64> = signed.into_iter().map(|it| (it.number, it.signed)).collect();
    let (mut tiles, mut indexes, mut trees) = (vec![], vec![], vec![]);
    let (mut sizes, mut texts) = (vec![], vec![]);
    for leaf in leaves {
        let reached = leaf.tree.and_then(|it| signed.get(&it)).copied().unwrap_or(0);
        if leaf.tree.is_some() && stored(leaf.size)? <= reached {
            continue;
        }
        indexes.push(stored(edge.size())?);
        edge.append(leaf_hash(leaf.leaf.as_bytes()), &mut tiles);
        trees.push(leaf.tree.unwrap_or_default());
        sizes.push(stored(leaf.size)?);
        texts.push(leaf.leaf);
    }
    let number = suite.first().map(|it| it.number).unwrap_or_default();
    let tiles: Vec<_> = tiles.into_iter().map(|(place, tile)| (number, place, tile)).collect();
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
    grow(tx, &suite).await?;
    // Whoever waits for a signed head looks again.
    tx.wake();
    Ok(())
}

/// Stores the signed head of the suite's tree.
pub(crate) async fn sign_suite(tx: &mut Tx, size: u64, note: &str) -> Result<()> {
    let now = tx.now;
    query!(
        "update tree set signed = $2, note = $3, signed_at = $4 where org_id = $1 and signed < $2",
        SUITE.0,
        stored(size)?,
        note,
        now,
    )
    .execute(tx.conn())
    .await?;
    tx.wake();
    Ok(())
}
