//! SQL statements about checkpoints.

use std::collections::HashMap;

use anyhow::Context;
use chassis::{Db, Result, Tx};
use sqlx::{query, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    damage::Damage,
    db_int::{from_db_int, to_db_int},
    merkle::{Hash, leaf_hash},
    tree::{
        self, SUITE_TREE, Tree,
        store::{LeafRange, LockedTree, NewTile, StoredLeaf},
    },
};

/// A stored tree; damaged if its row cannot be decoded.
pub(super) struct StoredTree {
    pub(super) org_id: Uuid,
    pub(super) tree: Result<Tree, Damage>,
}

/// Returns trees, except for the suite tree and those in quarantine, with entries that their newest
/// checkpoint does not cover.
pub(super) async fn unsigned_trees(db: &Db) -> Result<Vec<StoredTree>> {
    let rows = query!(
        "select number, org_id, size, edge from tree
         where signed < size and org_id <> $1
           and not exists (select from quarantine where quarantine.org_id = tree.org_id)
         order by number limit 500",
        SUITE_TREE.0
    );
    let rows = rows.fetch_all(db.pool()).await?;
    let tree = |number, org_id, size, edge: &[u8]| StoredTree {
        org_id,
        tree: Tree::from_row(number, org_id, size, edge),
    };
    Ok(rows.into_iter().map(|it| tree(it.number, it.org_id, it.size, &it.edge)).collect())
}

/// Returns the tree of an organization, unless it is in quarantine.
pub(super) async fn tree(db: &Db, org_id: Uuid) -> Result<Option<Tree>> {
    let row = query!(
        "select number, size, edge from tree
         where org_id = $1 and not exists (select from quarantine where quarantine.org_id = $1)",
        org_id
    );
    let Some(row) = row.fetch_optional(db.pool()).await? else { return Ok(None) };
    Ok(Some(Tree::from_row(row.number, org_id, row.size, &row.edge)?))
}

/// The suite tree with its newest checkpoint.
pub(super) struct SuiteTree {
    pub(super) tree: Tree,
    /// Leaves that the checkpoint covers.
    pub(super) signed: u64,
    /// The checkpoint, as a signed note; empty before the first one.
    pub(super) note: String,
}

/// Returns the suite tree; `None` before its first leaf.
pub(super) async fn suite_tree(db: &Db) -> Result<Option<SuiteTree>> {
    let row =
        query!("select number, size, edge, signed, note from tree where org_id = $1", SUITE_TREE.0);
    let Some(row) = row.fetch_optional(db.pool()).await? else { return Ok(None) };
    Ok(Some(SuiteTree {
        tree: Tree::from_row(row.number, SUITE_TREE.0, row.size, &row.edge)?,
        signed: from_db_int(row.signed)?,
        note: row.note,
    }))
}

/// A leaf that is computed from its entry or checkpoint.
pub(super) struct ComputedLeaf {
    pub(super) index: u64,
    pub(super) hash: Hash,
}

/// Returns the leaves of a range that are stored with their content.
pub(super) async fn leaves(db: &Db, tree: &Tree, range: LeafRange) -> Result<Vec<ComputedLeaf>> {
    let stored = tree::store::leaves(db, tree, range).await?;
    let computed = |it: StoredLeaf| ComputedLeaf { index: it.index, hash: leaf_hash(&it.bytes) };
    Ok(stored.into_iter().map(computed).collect())
}

/// Returns the index below which all entries of a tree are purged.
pub(super) async fn purged_before(db: &Db, tree: &Tree) -> Result<u64> {
    // A tree belongs to one organization (no org_id).
    let purged_before =
        query_scalar!("select purged_before from tree where number = $1", tree.number);
    from_db_int(purged_before.fetch_one(db.pool()).await?)
}

/// A checkpoint of an organization's tree, as a leaf of the suite tree.
pub(super) struct StoredCheckpoint {
    pub(super) index: u64,
    pub(super) org_id: Uuid,
    pub(super) note: String,
}

/// Returns the checkpoints in a range of leaves of the suite tree, in their order.
pub(super) async fn checkpoints(db: &Db, range: LeafRange) -> Result<Vec<StoredCheckpoint>> {
    // The suite tree has the checkpoints of all organizations (no org_id).
    let rows = query!(
        "select index, org_id, leaf from checkpoint join tree on number = checkpoint.tree
         where index >= $1 and index < $2 order by index",
        to_db_int(range.first)?,
        to_db_int(range.end)?
    );
    let rows = rows.fetch_all(db.pool()).await?;
    let checkpoint = |index, org_id, note| -> Result<StoredCheckpoint> {
        Ok(StoredCheckpoint { index: from_db_int(index)?, org_id, note })
    };
    rows.into_iter().map(|it| checkpoint(it.index, it.org_id, it.leaf)).collect()
}

/// State of the choice of the signer.
pub(super) struct SignerState {
    /// The replica with the lease.
    pub(super) holder: Option<Uuid>,
    /// The fencing token.
    pub(super) token: i64,
    /// True while signing is stopped.
    pub(super) is_stopped: bool,
}

/// Returns the state of the choice of the signer.
pub(super) async fn signer_state(db: &Db, log_name: &str) -> Result<SignerState> {
    // The stop holds for all organizations (no org_id).
    let row = query!(
        r#"select holder, token,
                  exists (select from signing_stop where log_name = $1) as "is_stopped!"
           from signer"#,
        log_name
    );
    let row = row.fetch_one(db.pool()).await?;
    Ok(SignerState { holder: row.holder, token: row.token, is_stopped: row.is_stopped })
}

/// Records that a replica runs, and that it has confirmed a fencing token.
pub(super) async fn record_heartbeat(tx: &mut Tx, replica: Uuid, confirmed: i64) -> Result<()> {
    // The clock of the database: the replicas are on machines with clocks of their own.
    query!(
        "insert into signer_replica (id, confirmed, seen_at) values ($1, $2, clock_timestamp())
         on conflict (id) do update set confirmed = excluded.confirmed, seen_at = excluded.seen_at",
        replica,
        confirmed
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Seconds without a heartbeat after which a replica counts as stopped.
pub(super) const LEASE_SECONDS: f64 = 5.0;

/// Takes the lease if it is free, if its holder counts as stopped, or if it is left over from an earlier
/// process of this replica. Returns the new fencing token.
pub(super) async fn acquire_lease(tx: &mut Tx, replica: Uuid) -> Result<Option<i64>> {
    let token = query_scalar!(
        "update signer set holder = $1, token = token + 1
         where holder is null or holder = $1 or not exists (
             select from signer_replica
             where id = holder and seen_at > clock_timestamp() - make_interval(secs => $2))
         returning token",
        replica,
        LEASE_SECONDS
    );
    let token = token.fetch_optional(tx.conn()).await?;
    if token.is_some() {
        query!(
            "delete from signer_replica where seen_at < clock_timestamp() - make_interval(secs => $1)",
            LEASE_SECONDS
        )
        .execute(tx.conn())
        .await?;
    }
    Ok(token)
}

/// True if every running replica has confirmed a fencing token.
pub(super) async fn is_confirmed(db: &Db, token: i64) -> Result<bool> {
    let is_confirmed = query_scalar!(
        r#"select not exists (
               select from signer_replica
               where confirmed < $1 and seen_at > clock_timestamp() - make_interval(secs => $2)
           ) as "is_confirmed!""#,
        token,
        LEASE_SECONDS
    );
    Ok(is_confirmed.fetch_one(db.pool()).await?)
}

/// Releases the lease of a replica that stops, and removes the replica.
pub(super) async fn release_lease(tx: &mut Tx, replica: Uuid) -> Result<()> {
    query!("update signer set holder = null where holder = $1", replica).execute(tx.conn()).await?;
    query!("delete from signer_replica where id = $1", replica).execute(tx.conn()).await?;
    Ok(())
}

/// Proof that a replica holds the lease, checked in the transaction that stores a checkpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fence {
    pub(super) replica: Uuid,
    pub(super) token: i64,
}

/// Locks the lease until the end of the transaction. Fails if the replica does not hold it with this token.
async fn require_lease(tx: &mut Tx, fence: Fence) -> Result<()> {
    let row = query!(
        "select token from signer where holder = $1 and token = $2 for share",
        fence.replica,
        fence.token
    );
    let row = row.fetch_optional(tx.conn()).await?;
    row.context("another replica signs the log now, or signing is stopped")?;
    Ok(())
}

/// Returns the sizes of all trees, by organization.
pub(super) async fn tree_sizes(db: &Db) -> Result<HashMap<Uuid, u64>> {
    let rows = query!("select org_id, size from tree").fetch_all(db.pool()).await?;
    let size = |size: i64| u64::try_from(size).unwrap_or_default();
    Ok(rows.into_iter().map(|it| (it.org_id, size(it.size))).collect())
}

/// Returns the time of the newest leaf of the suite tree.
pub(super) async fn last_suite_leaf_at(db: &Db) -> Result<Option<OffsetDateTime>> {
    // The suite tree has the checkpoints of all organizations (no org_id).
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

/// Stores checkpoints and appends them to the suite tree, if the replica holds the lease. Checkpoints that
/// are not newer than the stored ones are skipped.
pub(super) async fn publish(tx: &mut Tx, fence: Fence, leaves: Vec<SuiteLeaf>) -> Result<()> {
    require_lease(tx, fence).await?;
    let now = tx.now;
    let locked = tree::store::lock(tx, &[SUITE_TREE.0]).await?;
    let LockedTree { tree, .. } = locked.into_iter().next().context("the suite tree is locked")?;
    let mut suite_tree = tree?;
    let numbers: Vec<i32> = leaves.iter().filter_map(SuiteLeaf::tree).collect();
    // In the order of appends, which lock several trees, too.
    let signed = query!(
        "select number, signed from tree where number = any ($1) order by number for update",
        &numbers
    );
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
        tree::store::insert_tiles(tx, &tiles).await?;
    }
    tree::store::update(tx, &[suite_tree]).await?;
    // Wakes calls that wait for a checkpoint.
    tx.wake();
    Ok(())
}

/// Stores the newest checkpoint of the suite tree, if the replica holds the lease.
pub(super) async fn set_suite_checkpoint(
    tx: &mut Tx,
    fence: Fence,
    size: u64,
    note: &str,
) -> Result<()> {
    require_lease(tx, fence).await?;
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
