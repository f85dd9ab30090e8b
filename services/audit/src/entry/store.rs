//! SQL statements that read entries.

use chassis::{Db, OrgId, ProjectId, Result, fold};
use sqlx::{query, query_as};

use super::{
    EntryRow,
    search::{Matching, ScanIndex, SearchPlan, TermQuery, TimeRange},
};
use crate::{
    damage::Damage,
    head_journal::SignedHeads,
    integrity::{check_edge, check_size},
    search_index::TermKind,
    tree::Tree,
};

/// Range of visible entries of a tree.
pub(crate) struct VisibleRange {
    /// Number of the tree.
    pub(crate) tree: i32,
    /// First visible index.
    pub(crate) first: i64,
    /// End of the range, exclusive.
    pub(crate) end: i64,
}

/// Returns the entries within the retention of the organization's plan (AU-9) that were received in a time
/// range. `None` if the organization has no log yet. Fails with [`Damage`] if the log is in quarantine, or
/// does not continue the newest head that this replica has seen signed.
pub(crate) async fn visible_range(
    db: &Db,
    heads: &SignedHeads,
    org_id: OrgId,
    times: TimeRange,
) -> Result<Option<VisibleRange>> {
    let head = heads.head(org_id.0);
    // The hours of a day, because days depend on the time zone of the session.
    let now = db.now();
    let tree = query!(
        r#"select number, size, edge, cause as "cause?", detail as "detail?",
                  case when from_time is null then purged_before
                       else index_at(number, from_time) end as "first!",
                  case when $3::timestamptz is null then size else index_at(number, $3) end as "end!"
           from tree left join retention using (plan) left join quarantine using (org_id)
           cross join lateral (
               select greatest($2::timestamptz, $4::timestamptz - make_interval(hours => 24 * days))
                          as from_time
           ) as range
           where org_id = $1"#,
        org_id.0,
        times.from,
        times.to,
        now,
    );
    let Some(tree) = tree.fetch_optional(db.pool()).await? else {
        check_size(head, 0)?;
        return Ok(None);
    };
    if let Some(damage) = Damage::of_quarantine(tree.cause, tree.detail) {
        return Err(damage.into());
    }
    check_edge(head, &Tree::from_row(tree.number, org_id.0, tree.size, &tree.edge)?.edge)?;
    Ok(Some(VisibleRange { tree: tree.number, first: tree.first, end: tree.end }))
}

/// True if the log of an organization has entries of a project.
pub(crate) async fn has_project(db: &Db, org_id: OrgId, project_id: ProjectId) -> Result<bool> {
    let row = query!(
        r#"select exists (
               select from term join tree on tree.number = term.tree
               where org_id = $1 and kind = $2 and value = $3
           ) as "exists!""#,
        org_id.0,
        TermKind::Project as i16,
        project_id.to_string(),
    );
    Ok(row.fetch_one(db.pool()).await?.exists)
}

/// Returns the index below which all entries of a tree are purged.
pub(crate) async fn purged_before(db: &Db, tree: i32) -> Result<i64> {
    // A tree belongs to one organization (no org_id).
    let row = query!("select purged_before from tree where number = $1", tree);
    Ok(row.fetch_one(db.pool()).await?.purged_before)
}

/// Index terms that match a query.
#[derive(Clone, Debug, Default)]
pub(crate) struct TermMatches {
    /// Numbers of the terms.
    pub(crate) numbers: Vec<i32>,
    /// Entries that have one of the terms.
    pub(crate) entries: i64,
}

/// Returns the end of the range of values, exclusive, that match a queried value.
fn range_end(value: &str, matching: Matching) -> String {
    match matching {
        // U+0001 is the lowest character that PostgreSQL can store.
        Matching::Exact => format!("{value}\u{1}"),
        // Prefixes end with a dot or a colon, so the successor of the last character exists.
        Matching::Prefix => {
            let mut end = value.to_owned();
            if let Some(last) = end.pop() {
                end.push(char::from_u32(u32::from(last) + 1).unwrap_or(last));
            }
            end
        }
    }
}

/// Finds the index terms of a tree that match each query, in the order of the queries.
pub(crate) async fn find_terms(
    db: &Db,
    tree: i32,
    queries: &[TermQuery],
) -> Result<Vec<TermMatches>> {
    let kinds: Vec<i16> = queries.iter().map(|it| it.kind as i16).collect();
    let values: Vec<String> = queries.iter().map(|it| it.value.clone()).collect();
    let ends: Vec<String> = queries.iter().map(|it| range_end(&it.value, it.matching)).collect();
    let rows = query!(
        r#"select requested.n as "n!", number, entries
           from unnest($2::smallint[], $3::text[], $4::text[]) with ordinality
                as requested (kind, value, above, n)
           join term on term.tree = $1 and term.kind = requested.kind
                and term.value >= requested.value and term.value < requested.above"#,
        tree,
        &kinds,
        &values,
        &ends,
    );
    let mut found = vec![TermMatches::default(); queries.len()];
    for row in rows.fetch_all(db.pool()).await? {
        // Ordinality counts from 1.
        let matches = usize::try_from(row.n - 1).ok().and_then(|it| found.get_mut(it));
        if let Some(matches) = matches {
            matches.numbers.push(row.number);
            matches.entries += row.entries;
        }
    }
    Ok(found)
}

/// Characters of the elements of the index of names (`name_trigrams`).
const TRIGRAM_LEN: usize = 3;

/// Returns the elements of the index of names that a name must have to contain a folded text: its trigrams
/// or, for a shorter text, the element that all names of the tree have.
fn required_trigrams(tree: i32, text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let trigrams = chars.windows(TRIGRAM_LEN).map(|it| it.iter().collect::<String>());
    let mut required: Vec<String> = trigrams.map(|it| format!("{tree}:{it}")).collect();
    if required.is_empty() {
        required.push(format!("{tree}:"));
    }
    required
}

/// Finds the actors and objects whose name, at any time, contains a text. Of more than `limit`, those with
/// the most entries.
pub(crate) async fn find_terms_by_name(
    db: &Db,
    tree: i32,
    text: &str,
    limit: i64,
) -> Result<TermMatches> {
    let text = fold::key(text);
    let rows = query!(
        "select number, entries from term
         where number in (
             select term from term_name
             where name_trigrams(tree, name_key) @> $1 and tree = $2 and position($3 in name_key) > 0)
         order by entries desc limit $4",
        &required_trigrams(tree, &text),
        tree,
        text,
        limit,
    );
    let rows = rows.fetch_all(db.pool()).await?;
    let entries = rows.iter().map(|it| it.entries).sum();
    Ok(TermMatches { numbers: rows.into_iter().map(|it| it.number).collect(), entries })
}

/// Scans the index of a column: for each scanned number, its entries in the order of the index, of which
/// those that satisfy the other conditions are returned until there are enough; of all these, the next ones.
/// The cost of a page does not grow with its position or with the log. For that, PostgreSQL must neither sort
/// the entries of a number nor combine several indexes:
/// * `offset 0` keeps the other conditions out of the scan.
/// * It expects `case` to hold for every second entry, whatever its statistics say; so it expects to read a
///   small part of what a sort would need.
macro_rules! scan {
    ($db:expr, $plan:expr, $limit:expr, $order:literal, $column:literal) => {
        query_as!(
            EntryRow,
            "select found.index, found.event_id, found.received_at, found.flags, found.leaf
             from unnest($1::integer[]) as followed (number) cross join lateral (
                 select index, event_id, received_at, flags, leaf from (
                     select index, event_id, received_at, flags, leaf, tree, actor, resource, type, project,
                            environment, action, outcome from entry
                     where "
                + $column
                + " = followed.number and index >= $3 and index < $4
                     order by index "
                + $order
                + " offset 0
                 ) as scanned
                 where case when tree = $2
                   and ($5::integer[] is null or actor = any ($5))
                   and ($6::integer[] is null or resource = any ($6))
                   and ($7::integer[] is null or type = any ($7))
                   and ($8::integer[] is null or project = any ($8))
                   and ($9::integer[] is null or environment = any ($9))
                   and ($10::integer[] is null or action = any ($10))
                   and ($11::integer[] is null or actor = any ($11) or resource = any ($11))
                   and ($12::smallint is null or outcome = $12) then true else false end
                 limit $13
             ) as found order by found.index "
                + $order
                + " limit $13",
            &$plan.scan_terms,
            $plan.tree,
            $plan.first,
            $plan.end,
            $plan.terms.actor.as_deref(),
            $plan.terms.resource.as_deref(),
            $plan.terms.resource_kind.as_deref(),
            $plan.terms.project.as_deref(),
            $plan.terms.environment.as_deref(),
            $plan.terms.action.as_deref(),
            $plan.terms.actor_or_resource.as_deref(),
            $plan.outcome,
            $limit,
        )
        .fetch_all($db.pool())
        .await?
    };
}

/// Returns the newest entries of a search, newest first.
pub(crate) async fn newest_entries(
    db: &Db,
    plan: &SearchPlan,
    limit: i64,
) -> Result<Vec<EntryRow>> {
    if plan.matches_nothing || plan.first >= plan.end {
        return Ok(vec![]);
    }
    Ok(match plan.scan_index {
        ScanIndex::Tree => scan!(db, plan, limit, "desc", "tree"),
        ScanIndex::Actor => scan!(db, plan, limit, "desc", "actor"),
        ScanIndex::Resource => scan!(db, plan, limit, "desc", "resource"),
        ScanIndex::Project => scan!(db, plan, limit, "desc", "project"),
        ScanIndex::Action => scan!(db, plan, limit, "desc", "action"),
        ScanIndex::ActorOrResource => {
            let mut rows = scan!(db, plan, limit, "desc", "actor");
            rows.extend(scan!(db, plan, limit, "desc", "resource"));
            rows.sort_by_key(|it| std::cmp::Reverse(it.index));
            merge(rows, limit)
        }
    })
}

/// Returns the oldest entries of a search, oldest first.
pub(crate) async fn oldest_entries(
    db: &Db,
    plan: &SearchPlan,
    limit: i64,
) -> Result<Vec<EntryRow>> {
    if plan.matches_nothing || plan.first >= plan.end {
        return Ok(vec![]);
    }
    Ok(match plan.scan_index {
        ScanIndex::Tree => scan!(db, plan, limit, "asc", "tree"),
        ScanIndex::Actor => scan!(db, plan, limit, "asc", "actor"),
        ScanIndex::Resource => scan!(db, plan, limit, "asc", "resource"),
        ScanIndex::Project => scan!(db, plan, limit, "asc", "project"),
        ScanIndex::Action => scan!(db, plan, limit, "asc", "action"),
        ScanIndex::ActorOrResource => {
            let mut rows = scan!(db, plan, limit, "asc", "actor");
            rows.extend(scan!(db, plan, limit, "asc", "resource"));
            rows.sort_by_key(|it| it.index);
            merge(rows, limit)
        }
    })
}

/// Removes duplicates of sorted entries, which match both as actor and as object, and applies the limit.
fn merge(mut rows: Vec<EntryRow>, limit: i64) -> Vec<EntryRow> {
    rows.dedup_by_key(|it| it.index);
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    rows
}

#[cfg(test)]
mod tests {
    use super::required_trigrams;

    #[test]
    fn a_name_with_a_text_has_its_trigrams() {
        assert_eq!(required_trigrams(7, "anna"), ["7:ann", "7:nna"]);
        assert_eq!(required_trigrams(7, "日本語"), ["7:日本語"]);
        for short in ["", "a", "日本"] {
            assert_eq!(required_trigrams(7, short), ["7:"]);
        }
    }
}
