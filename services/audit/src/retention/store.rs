//! SQL statements about retention and purging.

use chassis::{Db, OrgId, Result, Tx};
use sqlx::{query, query_scalar};
use time::{Date, OffsetDateTime};
use uuid::Uuid;

/// Retention of a log.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Retention {
    /// Days for which entries are visible; `None` means forever.
    pub(crate) days: Option<i32>,
    /// True under legal hold.
    pub(crate) held: bool,
    /// Entries of the log, including those that are hidden or purged.
    pub(crate) size: i64,
    /// Index before which all entries are purged.
    pub(crate) purged_before: i64,
}

/// Returns the retention of a log; `None` if the organization has no log yet.
pub(crate) async fn get(db: &Db, org_id: OrgId) -> Result<Option<Retention>> {
    let row = query!(
        r#"select days as "days?", held, size, purged_before from tree left join retention using (plan)
           where org_id = $1"#,
        org_id.0
    );
    let row = row.fetch_optional(db.pool()).await?;
    Ok(row.map(|it| Retention {
        days: it.days,
        held: it.held,
        size: it.size,
        purged_before: it.purged_before,
    }))
}

/// Sets or removes the legal hold of a log. Returns true if that is a change.
pub(super) async fn set_legal_hold(tx: &mut Tx, org_id: OrgId, held: bool) -> Result<bool> {
    let changed = query!(
        "insert into tree (org_id, held) values ($1, $2)
         on conflict (org_id) do update set held = excluded.held where tree.held <> excluded.held",
        org_id.0,
        held
    );
    // The statement creates a log that does not exist yet.
    Ok(changed.execute(tx.conn()).await?.rows_affected() == 1)
}

/// Returns the months that have a partition.
pub(super) async fn partition_months(db: &Db) -> Result<Vec<Date>> {
    let months = query_scalar!(r#"select months() as "month!" order by 1"#);
    Ok(months.fetch_all(db.pool()).await?)
}

/// Most trees that one statement returns.
const PAGE_SIZE: i64 = 500;

/// Retention of a plan.
pub(super) struct PlanRetention {
    pub(super) plan: String,
    /// Days for which entries are visible.
    pub(super) days: i32,
}

/// Returns the plans with limited retention.
pub(super) async fn plans(db: &Db) -> Result<Vec<PlanRetention>> {
    let rows = query!("select plan, days from retention order by plan");
    let rows = rows.fetch_all(db.pool()).await?;
    Ok(rows.into_iter().map(|it| PlanRetention { plan: it.plan, days: it.days }).collect())
}

/// A tree of a plan.
pub(super) struct PlanTree {
    pub(super) number: i32,
    /// True if the tree has entries to purge and is not under legal hold.
    pub(super) is_due: bool,
}

/// Returns the next trees of a plan after the tree number `after`. A tree is due if it has entries that were
/// received before a time and are not purged. Trees in quarantine are skipped.
pub(super) async fn trees_of_plan(
    db: &Db,
    plan: &str,
    before: OffsetDateTime,
    after: i32,
) -> Result<Vec<PlanTree>> {
    // (no org_id): the purge processes every log.
    let rows = query!(
        r#"select number, not held and exists (
                      select from entry
                      where entry.tree = number and index >= purged_before and received_at < $2
                  ) as "due!"
           from tree
           where plan = $1 and number > $3
             and not exists (select from quarantine where quarantine.org_id = tree.org_id)
           order by number limit $4"#,
        plan,
        before,
        after,
        PAGE_SIZE,
    );
    let rows = rows.fetch_all(db.pool()).await?;
    Ok(rows.into_iter().map(|it| PlanTree { number: it.number, is_due: it.due }).collect())
}

/// Range of entries that were marked as purged.
pub(super) struct PurgedRange {
    pub(super) org_id: Uuid,
    pub(super) first_index: i64,
    pub(super) last_index: i64,
}

/// Marks the entries of a log that were received before a time as purged. `None` if there are none, or under
/// legal hold.
pub(super) async fn mark_purged(
    tx: &mut Tx,
    number: i32,
    before: OffsetDateTime,
) -> Result<Option<PurgedRange>> {
    // (no org_id): the purge processes every log.
    let row = query!(
        r#"select org_id, first_index as "first!", last_index as "last!"
           from mark_purged($1, $2) join tree on number = $1"#,
        number,
        before
    );
    let row = row.fetch_optional(tx.conn()).await?;
    Ok(row.map(|it| PurgedRange { org_id: it.org_id, first_index: it.first, last_index: it.last }))
}

/// Returns trees that have entries marked as purged and not deleted yet, except for those in quarantine.
pub(super) async fn trees_with_undeleted_entries(db: &Db) -> Result<Vec<i32>> {
    let trees = query_scalar!(
        "select number from tree
         where deleted_before < purged_before
           and not exists (select from quarantine where quarantine.org_id = tree.org_id)
         order by number limit $1",
        PAGE_SIZE
    );
    Ok(trees.fetch_all(db.pool()).await?)
}

/// Deletes the next `at_most` purged entries of a log. Returns true if there are more.
pub(super) async fn delete_purged(tx: &mut Tx, number: i32, at_most: i32) -> Result<bool> {
    let more = query_scalar!(r#"select delete_purged($1, $2) as "more!""#, number, at_most);
    Ok(more.fetch_one(tx.conn()).await?)
}

/// Drops the partition of a month if it is empty and its lock is free. Returns true if it was dropped.
pub(super) async fn drop_partition_if_empty(tx: &mut Tx, month: Date) -> Result<bool> {
    let dropped = query_scalar!(r#"select drop_month($1) as "dropped!""#, month);
    Ok(dropped.fetch_one(tx.conn()).await?)
}

/// Destroys keys of erased people. A batch that runs during an erasure may have created one.
pub(super) async fn destroy_keys_of_erased(tx: &mut Tx) -> Result<()> {
    query!("select forget_erased()").fetch_one(tx.conn()).await?;
    Ok(())
}
