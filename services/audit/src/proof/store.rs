//! SQL statements that read trees and checkpoints.

use chassis::{Db, OrgId, Result, Tx};
use sqlx::query;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    damage::Damage,
    db_int::from_db_int,
    head_journal::SignedHeads,
    integrity::{check_edge, check_size},
    note,
    tree::{SUITE_TREE, Tree},
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

/// Returns the tree of an organization; `None` if it has no log yet. Fails with [`Damage`] if it is in
/// quarantine, or does not continue the newest head that this replica has seen signed.
pub(crate) async fn signed_tree(
    db: &Db,
    heads: &SignedHeads,
    org_id: OrgId,
) -> Result<Option<SignedTree>> {
    let head = heads.head(org_id.0);
    let row = query!(
        r#"select number, org_id, size, edge, signed, note, signed_at, suite_index,
                  cause as "cause?", detail as "detail?"
           from tree left join quarantine using (org_id) where org_id = $1"#,
        org_id.0
    );
    let Some(row) = row.fetch_optional(db.pool()).await? else {
        check_size(head, 0)?;
        return Ok(None);
    };
    if let Some(damage) = Damage::of_quarantine(row.cause, row.detail) {
        return Err(damage.into());
    }
    let tree = Tree::from_row(row.number, row.org_id, row.size, &row.edge)?;
    check_edge(head, &tree.edge)?;
    let size = from_db_int(row.signed)?;
    let stored = note::unverified_head(&row.note);
    let contradicts_journal =
        head.is_some_and(|head| stored.is_some_and(|it| it.size == head.size && it != head));
    if contradicts_journal || stored.map_or(0, |it| it.size) != size {
        return Err(Damage::InvalidCheckpoint.into());
    }
    Ok(Some(SignedTree {
        tree,
        size,
        note: row.note,
        signed_at: row.signed_at,
        suite_index: row.suite_index.map(from_db_int).transpose()?,
    }))
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
