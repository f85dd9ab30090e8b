//! Every SQL statement that grows the log.

use std::collections::{BTreeSet, HashMap};

use anyhow::Context;
use chassis::{Db, OrgId, Result, Tx};
use sqlx::{query, query_scalar};
use time::{Date, OffsetDateTime};
use uuid::Uuid;

use super::{Flags, Tree, admit::Lane};
use crate::{
    facts::{Fact, Kind},
    merkle::Hash,
    tile::{Edge, Place, Tile},
};

/// The trees of these organizations, which nobody else grows until the transaction ends; in the order of
/// their ids, so that two batches never wait for each other.
pub(crate) async fn lock(tx: &mut Tx, org_ids: &[Uuid]) -> Result<Vec<Tree>> {
    let mut trees = lock_known(tx, org_ids).await?;
    if trees.len() < org_ids.len() {
        query!(
            "insert into tree (org_id) select unnest($1::uuid[]) on conflict do nothing",
            org_ids
        )
        .execute(tx.conn())
        .await?;
        trees = lock_known(tx, org_ids).await?;
    }
    Ok(trees)
}

async fn lock_known(tx: &mut Tx, org_ids: &[Uuid]) -> Result<Vec<Tree>> {
    let rows = query!(
        "select number, org_id, size, edge from tree where org_id = any ($1) order by org_id for update",
        org_ids
    );
    let rows = rows.fetch_all(tx.conn()).await?;
    let tree = |it: (i32, OrgId, i64, Vec<u8>)| {
        let (number, org_id, size, edge) = it;
        let size = u64::try_from(size).context("a size is not negative")?;
        let edge = Edge::parse(size, &edge);
        let edge =
            edge.with_context(|| format!("table tree, {org_id}: the edge does not fit the size"))?;
        Ok(Tree { number, org_id, edge })
    };
    rows.into_iter().map(|it| tree((it.number, OrgId(it.org_id), it.size, it.edge))).collect()
}

/// The newest number of each lane.
pub(crate) async fn sequences(tx: &mut Tx, org_ids: &[Uuid]) -> Result<HashMap<Lane, i64>> {
    let rows = query!(
        "select org_id, source, sequence from producer join tree on number = producer.tree
         where org_id = any ($1)",
        org_ids
    );
    let rows = rows.fetch_all(tx.conn()).await?;
    Ok(rows.into_iter().map(|it| ((it.org_id, it.source), it.sequence)).collect())
}

/// Which of these events are in the log.
pub(crate) async fn known(tx: &mut Tx, event_ids: &[Uuid]) -> Result<BTreeSet<Uuid>> {
    // (no org_id): the ids come from their producers, and nothing of an entry is told.
    let known = query_scalar!("select event_id from entry where event_id = any ($1)", event_ids);
    Ok(known.fetch_all(tx.conn()).await?.into_iter().collect())
}

/// The same, outside a transaction.
pub(crate) async fn logged(db: &Db, event_ids: &[Uuid]) -> Result<BTreeSet<Uuid>> {
    // (no org_id): it is as above.
    let known = query_scalar!("select event_id from entry where event_id = any ($1)", event_ids);
    Ok(known.fetch_all(db.pool()).await?.into_iter().collect())
}

/// A fact of one tree, and how many new entries have it.
pub(crate) type Count = (i32, Fact, i64);

/// The numbers of facts; new ones are made. Each counts its entries.
pub(crate) async fn terms(
    tx: &mut Tx,
    counts: &[Count],
) -> Result<HashMap<(i32, i16, String), i32>> {
    let (mut trees, mut kinds, mut values, mut entries) = (vec![], vec![], vec![], vec![]);
    for (tree, (kind, value), count) in counts {
        trees.push(*tree);
        kinds.push(*kind as i16);
        values.push(value.clone());
        entries.push(*count);
    }
    let rows = query!(
        "insert into term (tree, kind, value, entries)
         select unnest($1::integer[]), unnest($2::smallint[]), unnest($3::text[]), unnest($4::bigint[])
         on conflict (tree, kind, value) do update set entries = term.entries + excluded.entries
         returning tree, kind, value, number",
        &trees,
        &kinds,
        &values,
        &entries,
    );
    let rows = rows.fetch_all(tx.conn()).await?;
    Ok(rows.into_iter().map(|it| ((it.tree, it.kind, it.value), it.number)).collect())
}

/// Keeps names for search: of which fact, the name, and whose personal data it is.
pub(crate) async fn names(tx: &mut Tx, names: &[(i32, String, Option<Uuid>)]) -> Result<()> {
    let terms: Vec<i32> = names.iter().map(|it| it.0).collect();
    let texts: Vec<String> = names.iter().map(|it| it.1.clone()).collect();
    let persons: Vec<Uuid> = names.iter().map(|it| it.2.unwrap_or_default()).collect();
    query!(
        "insert into term_name (term, name, person)
         select term, name, nullif(person, '00000000-0000-0000-0000-000000000000')
         from unnest($1::integer[], $2::text[], $3::uuid[]) as new (term, name, person)
         on conflict do nothing",
        &terms,
        &texts,
        &persons,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// A new entry.
pub(crate) struct Row {
    pub(crate) tree: i32,
    pub(crate) index: u64,
    pub(crate) event_id: Uuid,
    /// Numbers of its facts, by kind.
    pub(crate) terms: HashMap<i16, i32>,
    pub(crate) outcome: i16,
    pub(crate) flags: Flags,
    pub(crate) leaf: Vec<u8>,
}

/// Stores entries.
pub(crate) async fn insert(tx: &mut Tx, rows: Vec<Row>) -> Result<()> {
    let now = tx.now;
    let term = |kind: Kind| -> Vec<i32> {
        rows.iter().map(|it| it.terms.get(&(kind as i16)).copied().unwrap_or_default()).collect()
    };
    let (actors, resources, types) = (term(Kind::Actor), term(Kind::Resource), term(Kind::Type));
    let (projects, environments) = (term(Kind::Project), term(Kind::Environment));
    let actions = term(Kind::Action);
    let trees: Vec<i32> = rows.iter().map(|it| it.tree).collect();
    let indexes = rows.iter().map(|it| stored(it.index)).collect::<Result<Vec<_>>>()?;
    let event_ids: Vec<Uuid> = rows.iter().map(|it| it.event_id).collect();
    let outcomes: Vec<i16> = rows.iter().map(|it| it.outcome).collect();
    let flags: Vec<i16> = rows.iter().map(|it| it.flags.0).collect();
    let leaves: Vec<Vec<u8>> = rows.into_iter().map(|it| it.leaf).collect();
    query!(
        "insert into entry (tree, actor, resource, type, project, environment, action, index, received_at,
                            event_id, outcome, flags, leaf)
         select tree, actor, resource, type, nullif(project, 0), nullif(environment, 0), action, index, $12,
                event_id, outcome, flags, leaf
         from unnest($1::integer[], $2::integer[], $3::integer[], $4::integer[], $5::integer[],
                     $6::integer[], $7::integer[], $8::bigint[], $9::uuid[], $10::smallint[],
                     $11::smallint[], $13::bytea[])
              as new (tree, actor, resource, type, project, environment, action, index, event_id, outcome,
                      flags, leaf)",
        &trees,
        &actors,
        &resources,
        &types,
        &projects,
        &environments,
        &actions,
        &indexes,
        &event_ids,
        &outcomes,
        &flags,
        now,
        &leaves,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Stores complete tiles.
pub(crate) async fn insert_tiles(tx: &mut Tx, tiles: &[(i32, Place, Tile)]) -> Result<()> {
    let (mut trees, mut levels, mut indexes, mut hashes) = (vec![], vec![], vec![], vec![]);
    for (tree, place, tile) in tiles {
        trees.push(*tree);
        levels.push(i16::try_from(place.level).context("a tree has at most 64 levels")?);
        indexes.push(stored(place.index)?);
        hashes.push(bytes(tile));
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

fn bytes(tile: &[Hash]) -> Vec<u8> {
    tile.as_flattened().to_vec()
}

/// Stores how far trees have grown.
pub(crate) async fn grow(tx: &mut Tx, trees: &[Tree]) -> Result<()> {
    let numbers: Vec<i32> = trees.iter().map(|it| it.number).collect();
    let sizes = trees.iter().map(|it| stored(it.edge.size())).collect::<Result<Vec<_>>>()?;
    let edges: Vec<Vec<u8>> = trees.iter().map(|it| it.edge.bytes()).collect();
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

/// Stores how far lanes have come.
pub(crate) async fn reach(tx: &mut Tx, lanes: &[(i32, String, i64)]) -> Result<()> {
    let trees: Vec<i32> = lanes.iter().map(|it| it.0).collect();
    let sources: Vec<String> = lanes.iter().map(|it| it.1.clone()).collect();
    let sequences: Vec<i64> = lanes.iter().map(|it| it.2).collect();
    query!(
        "insert into producer (tree, source, sequence)
         select unnest($1::integer[]), unnest($2::text[]), unnest($3::bigint[])
         on conflict (tree, source) do update set sequence = excluded.sequence",
        &trees,
        &sources,
        &sequences,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Makes the partition of a month, if there is none.
pub(crate) async fn open_month(tx: &mut Tx, month: Date) -> Result<()> {
    query!("select open_month($1)", month).fetch_one(tx.conn()).await?;
    Ok(())
}

/// The plan of an organization, as its events tell it.
pub(crate) async fn set_plan(tx: &mut Tx, org_id: Uuid, plan: &str) -> Result<()> {
    query!("update tree set plan = $2 where org_id = $1", org_id, plan).execute(tx.conn()).await?;
    Ok(())
}

/// The first day of the month of a moment.
pub(crate) fn month(moment: OffsetDateTime) -> Date {
    moment.date().replace_day(1).expect("every month has a first day")
}

pub(crate) fn stored(number: u64) -> Result<i64> {
    Ok(i64::try_from(number).context("a tree has at most 2^63 leaves")?)
}

pub(crate) fn loaded(number: i64) -> Result<u64> {
    Ok(u64::try_from(number).context("an index is not negative")?)
}
