//! Every SQL statement about how long entries are kept.

use api::audit as pb;
use chassis::{Db, OrgId, Result, Tx};
use sqlx::{query, query_scalar};
use time::{Date, OffsetDateTime};
use uuid::Uuid;

/// How long entries of a log are kept.
pub(crate) async fn get(db: &Db, org_id: OrgId) -> Result<Option<pb::GetRetentionResponse>> {
    let row = query!(
        r#"select days as "days?", held, size, purged_before from tree left join retention using (plan)
           where org_id = $1"#,
        org_id.0
    );
    let row = row.fetch_optional(db.pool()).await?;
    Ok(row.map(|it| pb::GetRetentionResponse {
        days: it.days.unwrap_or_default(),
        held: it.held,
        size: it.size,
        purged_before_index: it.purged_before,
    }))
}

/// Holds a log, or lets it go; answers whether that is new.
pub(crate) async fn hold(tx: &mut Tx, org_id: OrgId, held: bool) -> Result<bool> {
    let changed = query!(
        "insert into tree (org_id, held) values ($1, $2)
         on conflict (org_id) do update set held = excluded.held where tree.held <> excluded.held",
        org_id.0,
        held
    );
    // A log that does not exist yet is not held.
    Ok(changed.execute(tx.conn()).await?.rows_affected() == 1)
}

/// The months that have a partition.
pub(crate) async fn months(db: &Db) -> Result<Vec<Date>> {
    let months = query_scalar!(r#"select months() as "month!" order by 1"#);
    Ok(months.fetch_all(db.pool()).await?)
}

/// How many trees are looked at in one statement.
const PAGE: i64 = 500;

/// For how many days each plan shows entries; plans that are not here show them for ever.
pub(crate) async fn plans(db: &Db) -> Result<Vec<(String, i32)>> {
    let rows = query!("select plan, days from retention order by plan");
    let rows = rows.fetch_all(db.pool()).await?;
    Ok(rows.into_iter().map(|it| (it.plan, it.days)).collect())
}

/// Trees of a plan after the tree `after`, in the order of their numbers, each with whether it has entries
/// that were received before a moment and are neither purged nor held.
pub(crate) async fn page(
    db: &Db,
    plan: &str,
    before: OffsetDateTime,
    after: i32,
) -> Result<Vec<(i32, bool)>> {
    // (no org_id): the purge looks at every log.
    let rows = query!(
        r#"select number, not held and exists (
                      select from entry
                      where entry.tree = number and index >= purged_before and received_at < $2
                  ) as "due!"
           from tree where plan = $1 and number > $3 order by number limit $4"#,
        plan,
        before,
        after,
        PAGE,
    );
    let rows = rows.fetch_all(db.pool()).await?;
    Ok(rows.into_iter().map(|it| (it.number, it.due)).collect())
}

/// What was purged of one log.
pub(crate) struct Purged {
    pub(crate) org_id: Uuid,
    pub(crate) first: i64,
    pub(crate) last: i64,
}

/// Marks the entries that a log received before a moment as purged, unless somebody holds it.
pub(crate) async fn mark_purged(
    tx: &mut Tx,
    number: i32,
    before: OffsetDateTime,
) -> Result<Option<Purged>> {
    // (no org_id): the purge looks at every log.
    let row = query!(
        r#"select org_id, first_index as "first!", last_index as "last!"
           from mark_purged($1, $2) join tree on number = $1"#,
        number,
        before
    );
    let row = row.fetch_optional(tx.conn()).await?;
    Ok(row.map(|it| Purged { org_id: it.org_id, first: it.first, last: it.last }))
}

/// Trees whose purged entries are not all deleted.
pub(crate) async fn undeleted(db: &Db) -> Result<Vec<i32>> {
    let trees = query_scalar!(
        "select number from tree where deleted_before < purged_before order by number limit $1",
        PAGE
    );
    Ok(trees.fetch_all(db.pool()).await?)
}

/// Deletes the next purged entries of a log; answers whether there are more.
pub(crate) async fn delete_purged(tx: &mut Tx, number: i32, at_most: i32) -> Result<bool> {
    let more = query_scalar!(r#"select delete_purged($1, $2) as "more!""#, number, at_most);
    Ok(more.fetch_one(tx.conn()).await?)
}

/// Drops the partition of a month if it is empty and nobody uses the table at this moment.
pub(crate) async fn drop_month(tx: &mut Tx, month: Date) -> Result<bool> {
    let dropped = query_scalar!(r#"select drop_month($1) as "dropped!""#, month);
    Ok(dropped.fetch_one(tx.conn()).await?)
}

/// Destroys keys that somebody made for a person while that person was erased.
pub(crate) async fn forget_erased(tx: &mut Tx) -> Result<()> {
    query!("select forget_erased()").fetch_one(tx.conn()).await?;
    Ok(())
}
