//! SQL statements that read trees and checkpoints.

use std::collections::{BTreeMap, BTreeSet};

use chassis::{Db, OrgId, Result};
use sqlx::{query, query_as};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    damage::Damage,
    db_int::{from_db_int, to_db_int},
    head_journal::{SignedHeads, TreeHead},
    integrity::{check_edge, check_size},
    note,
    publication::{CosignedCheckpoint, Publication},
    subject_key::store::StoredKey,
    tile::{TileHashes, TileId},
    tree::{self, SUITE_TREE, Tree},
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

/// A row of the table `tree` with its newest checkpoint and its quarantine.
pub(super) struct StoredHead {
    org_id: OrgId,
    number: i32,
    size: i64,
    edge: Vec<u8>,
    signed: i64,
    note: String,
    signed_at: Option<OffsetDateTime>,
    suite_index: Option<i64>,
    cause: Option<String>,
    detail: Option<String>,
}

impl StoredHead {
    /// Returns the tree. Fails if it is in quarantine, or does not continue `head`, the newest head that this
    /// replica has seen signed.
    pub(super) fn tree(&mut self, head: Option<TreeHead>) -> Result<Tree, Damage> {
        if let Some(damage) = Damage::of_quarantine(self.cause.take(), self.detail.take()) {
            return Err(damage);
        }
        let tree = Tree::from_row(self.number, self.org_id.0, self.size, &self.edge)?;
        check_edge(head, &tree.edge)?;
        Ok(tree)
    }

    /// Sets the newest checkpoint of the suite tree to the newest cosigned one. Fails if the tree does not
    /// continue it.
    fn set_cosigned(
        &mut self,
        newest: Option<&CosignedCheckpoint>,
        tree: &Tree,
    ) -> Result<(), Damage> {
        let Some(CosignedCheckpoint { size, note, cosigned_at }) = newest else { return Ok(()) };
        let head = note::unverified_head(note).ok_or(Damage::InvalidCheckpoint)?;
        check_edge(Some(head), &tree.edge)?;
        self.signed = i64::try_from(*size).map_err(|_| Damage::InvalidCheckpoint)?;
        self.note.clone_from(note);
        self.signed_at = Some(*cosigned_at);
        Ok(())
    }

    /// Returns the tree with its newest checkpoint, after a comparison with `head`.
    pub(super) fn signed_tree(self, tree: Tree, head: Option<TreeHead>) -> Result<SignedTree> {
        let size = from_db_int(self.signed)?;
        let stored = note::unverified_head(&self.note);
        let contradicts_journal =
            head.is_some_and(|head| stored.is_some_and(|it| it.size == head.size && it != head));
        if contradicts_journal || stored.map_or(0, |it| it.size) != size {
            return Err(Damage::InvalidCheckpoint.into());
        }
        Ok(SignedTree {
            tree,
            size,
            note: self.note,
            signed_at: self.signed_at,
            suite_index: self.suite_index.map(from_db_int).transpose()?,
        })
    }
}

/// Returns the tree of an organization with its newest published checkpoint; `None` if it has no log yet.
/// Fails with [`Damage`] if it is in quarantine, or does not continue the newest head that this replica has
/// seen signed.
pub(crate) async fn signed_tree(
    db: &Db,
    heads: &SignedHeads,
    org_id: OrgId,
    publication: &Publication,
) -> Result<Option<SignedTree>> {
    let head = heads.head(org_id.0);
    let published = publication.suite_size().map(to_db_int).transpose()?;
    let row = query_as!(
        StoredHead,
        r#"select org_id as "org_id: OrgId", number, tree.size, edge,
                  case when $2::bigint is null then signed else coalesce(published.size, 0) end as "signed!",
                  case when $2 is null then note else coalesce(leaf, '') end as "note!",
                  case when $2 is null then tree.signed_at else published.signed_at end as signed_at,
                  case when $2 is null then suite_index else index end as suite_index,
                  cause as "cause?", detail as "detail?"
           from tree left join quarantine using (org_id)
           left join lateral (
               select size, leaf, signed_at, index from checkpoint
               where checkpoint.tree = tree.number and index < $2 order by checkpoint.size desc limit 1
           ) as published on true
           where org_id = $1"#,
        org_id.0,
        published
    );
    let Some(mut stored) = row.fetch_optional(db.pool()).await? else {
        check_size(head, 0)?;
        return Ok(None);
    };
    let tree = stored.tree(head)?;
    if let (SUITE_TREE, Publication::Cosigned(newest)) = (org_id, publication) {
        stored.set_cosigned(newest.as_ref(), &tree)?;
    }
    Ok(Some(stored.signed_tree(tree, head)?))
}

/// An entry with everything that its inclusion proof takes, of one state of the log.
pub(super) struct ProvableEntry {
    pub(super) index: i64,
    pub(super) leaf: Vec<u8>,
    pub(super) received_at: OffsetDateTime,
    /// Index below which all entries of the tree are purged.
    pub(super) purged_before: i64,
    /// Days for which entries are shown; `None` for ever.
    pub(super) retention_days: Option<i32>,
    /// True while signing is stopped.
    pub(super) is_stopped: bool,
    pub(super) head: StoredHead,
    /// Complete tiles on the paths of the entry and of the end of the signed entries.
    pub(super) tiles: BTreeMap<TileId, TileHashes>,
    /// People whose keys were read: actor and object of the entry, if their ids are those of accounts.
    pub(super) people: BTreeSet<Uuid>,
    /// The keys of these people.
    pub(super) keys: Vec<StoredKey>,
}

/// Returns an entry by its event, with everything that its inclusion proof takes. Only checkpoints among the
/// first `published` leaves of the suite tree count, if that is limited.
pub(super) async fn provable_entry(
    db: &Db,
    log_name: &str,
    org_id: OrgId,
    event_id: Uuid,
    published: Option<u64>,
) -> Result<Option<ProvableEntry>> {
    let published = published.map(to_db_int).transpose()?;
    // The siblings of a path are in the tiles of the path, except for the last one, which is not complete:
    // its parts are in the tiles at the end of the signed entries.
    let row = query!(
        r#"with stored as (
               select number, tree.size, edge,
                      case when $4::bigint is null then signed else coalesce(published.size, 0) end as signed,
                      case when $4 is null then note else coalesce(leaf, '') end as note,
                      case when $4 is null then tree.signed_at else published.signed_at end as signed_at,
                      case when $4 is null then suite_index else index end as suite_index,
                      purged_before, days, cause, detail,
                      exists (select from signing_stop where log_name = $3) as is_stopped
               from tree left join retention using (plan) left join quarantine using (org_id)
               left join lateral (
                   select size, leaf, signed_at, index from checkpoint
                   where checkpoint.tree = tree.number and index < $4
                   order by checkpoint.size desc limit 1
               ) as published on true
               where org_id = $1
           ), found as (
               select index, leaf, received_at, actor, resource from entry
               where event_id = $2 and tree = (select number from stored) order by index limit 1
           ), named as materialized (
               select array(
                   select case when value ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(:|$)'
                               then left(value, 36)::uuid end
                   from term where term.number in (actor, resource)) as people
               from found
           )
           select found.index, leaf, received_at, number, size, edge, signed as "signed!", note as "note!",
                  signed_at, suite_index, purged_before, days as "days?", cause as "cause?",
                  detail as "detail?",
                  is_stopped as "is_stopped!", levels, indexes, hashes, people as "people!", key_people, keys,
                  are_interim
           from stored cross join found cross join named
           cross join lateral (
               select array_agg(tile.level) as levels, array_agg(tile.index) as indexes,
                      array_agg(tile.hashes) as hashes
               from (select level::smallint as level, found.index >> (level + 4) as index
                     from generate_series(0, 56, 4) as level where signed >> level > 0
                     union
                     select level::smallint, signed >> (level + 4)
                     from generate_series(0, 56, 4) as level where signed >> level > 0) as path
               join tile on tile.tree = number and tile.level = path.level and tile.index = path.index
           ) as tiles
           cross join lateral (
               select array_agg(person) as key_people, array_agg(sealed) as keys,
                      array_agg(is_interim) as are_interim
               from (select id as person, sealed, false as is_interim from person
                     where id = any (named.people)
                     union all
                     select person, sealed, true from person_interim_key
                     where person = any (named.people)) as stored_key
           ) as sealed_keys"#,
        org_id.0,
        event_id,
        log_name,
        published,
    );
    let Some(row) = row.fetch_optional(db.pool()).await? else { return Ok(None) };
    let tiles = tile_rows(row.levels, row.indexes, row.hashes);
    let keys = key_rows(row.key_people, row.keys, row.are_interim);
    Ok(Some(ProvableEntry {
        index: row.index,
        leaf: row.leaf,
        received_at: row.received_at,
        purged_before: row.purged_before,
        retention_days: row.days,
        is_stopped: row.is_stopped,
        head: StoredHead {
            org_id,
            number: row.number,
            size: row.size,
            edge: row.edge,
            signed: row.signed,
            note: row.note,
            signed_at: row.signed_at,
            suite_index: row.suite_index,
            cause: row.cause,
            detail: row.detail,
        },
        tiles: tiles.collect::<Result<_>>()?,
        people: row.people.into_iter().collect(),
        keys: keys.collect(),
    }))
}

/// Zips aggregated columns of the table `tile`; `None` stands for no rows.
fn tile_rows(
    levels: Option<Vec<i16>>,
    indexes: Option<Vec<i64>>,
    hashes: Option<Vec<Vec<u8>>>,
) -> impl Iterator<Item = Result<(TileId, TileHashes)>> {
    let positions = levels.unwrap_or_default().into_iter().zip(indexes.unwrap_or_default());
    let rows = positions.zip(hashes.unwrap_or_default());
    rows.map(|((level, index), hashes)| tree::store::tile_of_row(level, index, &hashes))
}

/// Zips aggregated columns of the tables of keys; `None` stands for no rows.
fn key_rows(
    people: Option<Vec<Uuid>>,
    keys: Option<Vec<Vec<u8>>>,
    are_interim: Option<Vec<bool>>,
) -> impl Iterator<Item = StoredKey> {
    let rows = people.unwrap_or_default().into_iter().zip(keys.unwrap_or_default());
    let rows = rows.zip(are_interim.unwrap_or_default());
    rows.map(|((person, sealed), is_interim)| StoredKey { person, sealed, is_interim })
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
