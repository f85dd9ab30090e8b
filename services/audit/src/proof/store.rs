//! Every SQL statement that reads trees.

use std::collections::BTreeMap;

use anyhow::Context;
use chassis::{Db, OrgId, Result};
use sqlx::query;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    log::{
        SUITE, Tree,
        store::{loaded, stored},
    },
    merkle::{Hash, Node},
    signer::store::tree,
    tile::{Place, Tile},
};

/// A tree and its newest signed head.
pub(crate) struct Signed {
    pub(crate) tree: Tree,
    /// Entries that the head covers.
    pub(crate) size: u64,
    pub(crate) note: String,
    pub(crate) signed_at: Option<OffsetDateTime>,
    /// The place of the head in the suite's tree.
    pub(crate) suite_index: Option<u64>,
}

/// The tree of an organization, if it has entries.
pub(crate) async fn signed(db: &Db, org_id: OrgId) -> Result<Option<Signed>> {
    let row = query!(
        "select number, org_id, size, edge, signed, note, signed_at, suite_index from tree
         where org_id = $1",
        org_id.0
    );
    let Some(it) = row.fetch_optional(db.pool()).await? else { return Ok(None) };
    Ok(Some(Signed {
        tree: tree(it.number, it.org_id, it.size, &it.edge)?,
        size: loaded(it.signed)?,
        note: it.note,
        signed_at: it.signed_at,
        suite_index: it.suite_index.map(loaded).transpose()?,
    }))
}

/// The hashes of nodes of a tree, in their order: from its edge, and from tiles.
pub(crate) async fn hashes(db: &Db, of: &Tree, nodes: &[Node]) -> Result<Vec<Hash>> {
    let wanted = of.edge.tiles_of(nodes);
    let tiles = if wanted.is_empty() { BTreeMap::new() } else { tiles(db, of, wanted).await? };
    let hashes = of.edge.hashes(nodes, &tiles);
    Ok(hashes.with_context(|| format!("table tile, {}: a tile is missing", of.org_id))?)
}

async fn tiles(
    db: &Db,
    of: &Tree,
    wanted: impl IntoIterator<Item = Place>,
) -> Result<BTreeMap<Place, Tile>> {
    let (mut levels, mut indexes) = (vec![], vec![]);
    for place in wanted {
        levels.push(i16::try_from(place.level).context("a tree has at most 64 levels")?);
        indexes.push(stored(place.index)?);
    }
    let rows = query!(
        "select tile.level, tile.index, hashes
         from unnest($2::smallint[], $3::bigint[]) as wanted (level, index)
         join tile on tile.tree = $1 and tile.level = wanted.level and tile.index = wanted.index",
        of.number,
        &levels,
        &indexes,
    );
    let rows = rows.fetch_all(db.pool()).await?;
    let tile = |level: i16, index: i64, hashes: Vec<u8>| {
        let level = u32::try_from(level).context("a level is not negative")?;
        Ok((Place { level, index: loaded(index)? }, hashes.as_chunks().0.to_vec()))
    };
    rows.into_iter().map(|it| tile(it.level, it.index, it.hashes)).collect()
}

/// A leaf, where it is, and who made it.
pub(crate) struct Leaf {
    pub(crate) index: u64,
    pub(crate) bytes: Vec<u8>,
}

/// The leaf of an event in the log of an organization.
pub(crate) async fn leaf(db: &Db, org_id: OrgId, event_id: Uuid) -> Result<Option<Leaf>> {
    let row = query!(
        "select index, leaf from entry
         where event_id = $2 and tree = (select number from tree where org_id = $1)
         order by index limit 1",
        org_id.0,
        event_id
    );
    let row = row.fetch_optional(db.pool()).await?;
    row.map(|it| Ok(Leaf { index: loaded(it.index)?, bytes: it.leaf })).transpose()
}

/// The organization of an event whose actor is this account.
pub(crate) async fn place_of(db: &Db, event_id: Uuid, actor_id: &str) -> Result<Option<OrgId>> {
    // (no org_id): whoever did something may prove it, wherever it was.
    let row = query!(
        "select org_id from entry join tree on tree.number = entry.tree
         join term on term.number = entry.actor
         where event_id = $1 and term.value = $2 limit 1",
        event_id,
        actor_id
    );
    Ok(row.fetch_optional(db.pool()).await?.map(|it| OrgId(it.org_id)))
}

/// The newest head of the suite's tree that witnesses have signed, too.
pub(crate) async fn witnessed(db: &Db) -> Result<Option<String>> {
    let row = query!("select note from cosigned order by size desc limit 1");
    Ok(row.fetch_optional(db.pool()).await?.map(|it| it.note))
}

/// A head of the suite's tree with the signatures of witnesses so far.
pub(crate) async fn cosigned(tx: &mut chassis::Tx, size: i64) -> Result<Option<String>> {
    // One at a time, so that the signature of one witness does not replace that of another.
    query!("select number from tree where org_id = $1 for update", SUITE.0)
        .fetch_optional(tx.conn())
        .await?;
    let row = query!("select note from cosigned where size = $1", size);
    Ok(row.fetch_optional(tx.conn()).await?.map(|it| it.note))
}

/// Keeps a head of the suite's tree with the signatures of witnesses.
pub(crate) async fn keep_cosigned(tx: &mut chassis::Tx, size: i64, note: &str) -> Result<()> {
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
