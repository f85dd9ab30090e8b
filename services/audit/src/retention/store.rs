//! Every SQL statement about how long entries are kept.

use api::audit as pb;
use chassis::{Db, OrgId, Result, Tx};
use sqlx::{query, query_scalar};
use time::Date;
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

/// The months that have entries.
pub(crate) async fn months(db: &Db) -> Result<Vec<Date>> {
    let months = query_scalar!(r#"select months() as "month!" order by 1"#);
    Ok(months.fetch_all(db.pool()).await?)
}

/// A log whose entries are not kept for ever.
pub(crate) struct Limited {
    pub(crate) number: i32,
    pub(crate) days: i32,
}

/// The logs that have entries of a month, are not held, and do not keep them for ever.
pub(crate) async fn limited(db: &Db, month: Date) -> Result<Vec<Limited>> {
    // (no org_id): the purge looks at every log.
    let rows = query!(
        "select number, days from tree join retention using (plan)
         where not held and exists (
             select from entry where tree = number
               and received_at >= $1::date::timestamp at time zone 'UTC'
               and received_at < ($1::date + interval '1 month')::timestamp at time zone 'UTC')",
        month
    );
    let rows = rows.fetch_all(db.pool()).await?;
    Ok(rows.into_iter().map(|it| Limited { number: it.number, days: it.days }).collect())
}

/// What was purged of one log.
pub(crate) struct Purged {
    pub(crate) org_id: Uuid,
    pub(crate) first: i64,
    pub(crate) last: i64,
}

/// Purges the entries that some logs received in a month. The trees are locked, so that nobody holds one
/// meanwhile.
pub(crate) async fn purge(tx: &mut Tx, month: Date, due: &[Limited]) -> Result<Vec<Purged>> {
    // (no org_id): the purge looks at every log.
    let numbers: Vec<i32> = due.iter().map(|it| it.number).collect();
    // A large month takes its time to be copied.
    query!("set local statement_timeout = '30min'").execute(tx.conn()).await?;
    let free = query_scalar!(
        "select number from tree where number = any ($1) and not held order by org_id for update",
        &numbers
    );
    let free = free.fetch_all(tx.conn()).await?;
    let purged = query!(
        r#"select org_id, min(entry.index) as "first!", max(entry.index) as "last!"
           from entry join tree on number = entry.tree
           where entry.tree = any ($1) and received_at >= $2::date::timestamp at time zone 'UTC'
             and received_at < ($2::date + interval '1 month')::timestamp at time zone 'UTC'
           group by org_id order by org_id"#,
        &free,
        month,
    );
    let purged = purged.fetch_all(tx.conn()).await?;
    query!("select purge_month($1, $2)", month, &free).fetch_one(tx.conn()).await?;
    for it in &purged {
        query!(
            "update tree set purged_before = greatest(purged_before, $2) where org_id = $1",
            it.org_id,
            it.last + 1
        )
        .execute(tx.conn())
        .await?;
    }
    // Keys that somebody made for a person while that person was erased.
    query!("delete from person where id in (select id from person_erased)")
        .execute(tx.conn())
        .await?;
    let log = |(org_id, first, last)| Purged { org_id, first, last };
    Ok(purged.into_iter().map(|it| log((it.org_id, it.first, it.last))).collect())
}
