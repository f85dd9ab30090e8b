//! Every SQL statement that reads entries.

use chassis::{Db, OrgId, Result};
use sqlx::{query, query_as};
use time::{Duration, OffsetDateTime};

use super::{
    Row,
    find::{Driver, Search},
};
use crate::facts::Kind;

/// Which part of a tree is shown.
pub(crate) struct Bounds {
    pub(crate) number: i32,
    pub(crate) first: i64,
    pub(crate) end: i64,
}

/// The part of a tree that its plan shows (AU-9), narrowed to a time.
pub(crate) async fn bounds(
    db: &Db,
    org_id: OrgId,
    from: Option<OffsetDateTime>,
    to: Option<OffsetDateTime>,
) -> Result<Option<Bounds>> {
    let shown = query!(
        r#"select number, size, purged_before, days as "days?" from tree left join retention using (plan)
           where org_id = $1"#,
        org_id.0
    );
    let Some(tree) = shown.fetch_optional(db.pool()).await? else { return Ok(None) };
    let oldest = tree.days.map(|it| db.now() - Duration::days(it.into()));
    let mut bounds = Bounds { number: tree.number, first: tree.purged_before, end: tree.size };
    if let Some(from) = from.max(oldest) {
        bounds.first = index_at(db, tree.number, from).await?;
    }
    if let Some(to) = to {
        bounds.end = index_at(db, tree.number, to).await?;
    }
    Ok(Some(bounds))
}

async fn index_at(db: &Db, tree: i32, moment: OffsetDateTime) -> Result<i64> {
    let index = query!(r#"select index_at($1, $2) as "index!""#, tree, moment);
    Ok(index.fetch_one(db.pool()).await?.index)
}

/// A fact that entries must have: its kind, its value, and whether every fact counts that begins so.
pub(crate) type Wish = (Kind, String, bool);

/// The numbers of facts in one tree, and how many entries have them; for each wish.
pub(crate) async fn terms(db: &Db, tree: i32, wishes: &[Wish]) -> Result<Vec<(Vec<i32>, i64)>> {
    let (mut kinds, mut values, mut ends) = (vec![], vec![], vec![]);
    for (kind, value, prefix) in wishes {
        // The next text after all that begin so: prefixes end with a dot or a colon. After an exact value
        // comes the value with a zero byte, which PostgreSQL cannot hold; the lowest letter will do.
        let mut end = value.clone();
        match end.pop().filter(|_| *prefix) {
            Some(last) => end.push(char::from_u32(u32::from(last) + 1).unwrap_or(last)),
            None => end = format!("{value}\u{1}"),
        }
        kinds.push(*kind as i16);
        values.push(value.clone());
        ends.push(end);
    }
    let rows = query!(
        r#"select wish.n as "n!", number, entries
           from unnest($2::smallint[], $3::text[], $4::text[]) with ordinality
                as wish (kind, value, above, n)
           join term on term.tree = $1 and term.kind = wish.kind
                and term.value >= wish.value and term.value < wish.above"#,
        tree,
        &kinds,
        &values,
        &ends,
    );
    let mut found = vec![(vec![], 0); wishes.len()];
    for row in rows.fetch_all(db.pool()).await? {
        let place = usize::try_from(row.n - 1).ok().and_then(|it| found.get_mut(it));
        if let Some((numbers, entries)) = place {
            numbers.push(row.number);
            *entries += row.entries;
        }
    }
    Ok(found)
}

/// The numbers of actors and objects that ever had a name like this, and how many entries have them.
pub(crate) async fn named(db: &Db, tree: i32, text: &str, limit: i64) -> Result<(Vec<i32>, i64)> {
    let rows = query!(
        r#"select number, entries from term
           where tree = $1 and kind in (1, 2) and exists (
               select from term_name
               where term_name.term = term.number and position(lower($2) in lower(name)) > 0)
           order by entries desc limit $3"#,
        tree,
        text,
        limit,
    );
    let rows = rows.fetch_all(db.pool()).await?;
    let entries = rows.iter().map(|it| it.entries).sum();
    Ok((rows.into_iter().map(|it| it.number).collect(), entries))
}

/// A page along one index: for each number that is followed, the next entries that have all else that is
/// wanted; of these, the next ones. Each number is a short walk along an index, whatever page it is: the
/// rows are compared as pairs and ordered like the index, so that PostgreSQL walks and never sorts.
macro_rules! walk {
    ($db:expr, $it:expr, $limit:expr, $follow:literal, $order:literal) => {
        query_as!(
            Row,
            "select found.index, found.event_id, found.received_at, found.flags, found.leaf
             from unnest($1::integer[]) as followed (number) cross join lateral (
                 select index, event_id, received_at, flags, leaf from entry
                 where tree = $2
                   and ($5::integer[] is null or actor = any ($5))
                   and ($6::integer[] is null or resource = any ($6))
                   and ($7::integer[] is null or type = any ($7))
                   and ($8::integer[] is null or project = any ($8))
                   and ($9::integer[] is null or environment = any ($9))
                   and ($10::integer[] is null or action = any ($10))
                   and ($11::integer[] is null or actor = any ($11) or resource = any ($11))
                   and ($12::smallint is null or outcome = $12)
                   and ("
                + $follow
                + ", index) >= (followed.number, $3) and ("
                + $follow
                + ", index) < (followed.number, $4) order by "
                + $follow
                + " "
                + $order
                + ", index "
                + $order
                + " limit $13
             ) as found order by found.index "
                + $order
                + " limit $13",
            &$it.follow,
            $it.tree,
            $it.first,
            $it.end,
            $it.terms.actor.as_deref(),
            $it.terms.resource.as_deref(),
            $it.terms.kind.as_deref(),
            $it.terms.project.as_deref(),
            $it.terms.environment.as_deref(),
            $it.terms.action.as_deref(),
            $it.terms.named.as_deref(),
            $it.outcome,
            $limit,
        )
        .fetch_all($db.pool())
        .await?
    };
}

/// The next entries of a search from its newest end.
pub(crate) async fn newest(db: &Db, it: &Search, limit: i64) -> Result<Vec<Row>> {
    if it.nothing || it.first >= it.end {
        return Ok(vec![]);
    }
    Ok(match it.driver {
        Driver::Tree => walk!(db, it, limit, "tree", "desc"),
        Driver::Actor => walk!(db, it, limit, "actor", "desc"),
        Driver::Resource => walk!(db, it, limit, "resource", "desc"),
        Driver::Project => walk!(db, it, limit, "project", "desc"),
        Driver::Action => walk!(db, it, limit, "action", "desc"),
        Driver::Named => {
            let mut rows = walk!(db, it, limit, "actor", "desc");
            rows.extend(walk!(db, it, limit, "resource", "desc"));
            rows.sort_by_key(|it| std::cmp::Reverse(it.index));
            merged(rows, limit)
        }
    })
}

/// The next entries of a search from its oldest end.
pub(crate) async fn oldest(db: &Db, it: &Search, limit: i64) -> Result<Vec<Row>> {
    if it.nothing || it.first >= it.end {
        return Ok(vec![]);
    }
    Ok(match it.driver {
        Driver::Tree => walk!(db, it, limit, "tree", "asc"),
        Driver::Actor => walk!(db, it, limit, "actor", "asc"),
        Driver::Resource => walk!(db, it, limit, "resource", "asc"),
        Driver::Project => walk!(db, it, limit, "project", "asc"),
        Driver::Action => walk!(db, it, limit, "action", "asc"),
        Driver::Named => {
            let mut rows = walk!(db, it, limit, "actor", "asc");
            rows.extend(walk!(db, it, limit, "resource", "asc"));
            rows.sort_by_key(|it| it.index);
            merged(rows, limit)
        }
    })
}

/// An entry may have a name twice: as its actor and as its object.
fn merged(mut rows: Vec<Row>, limit: i64) -> Vec<Row> {
    rows.dedup_by_key(|it| it.index);
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    rows
}
