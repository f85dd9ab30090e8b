//! Reading of parts from the log, with the same verification as exports on demand: a damaged entry is not
//! exported.

use std::{collections::BTreeMap, ops::Range};

use chassis::{OrgId, Result};
use time::{Date, OffsetDateTime, UtcOffset};

use super::{
    Content, PART_ENTRIES_MAX, PART_LEAF_BYTES_MAX, PURGED_FOLDER, Part, PartEntry, PartPlan,
};
use crate::{
    entry::{
        EntryRow,
        read::EntryReader,
        search::{EntryQuery, SearchPlan},
        store,
    },
    export::{record::Record, verification::LeafVerification},
    proof::{prove::Prover, store::SignedTree},
    url_credential,
};

/// Entries that are read at a time.
const BATCH: i64 = 200;

/// Reader of parts.
#[derive(Clone)]
pub(in crate::export_sink) struct PartReader {
    pub(in crate::export_sink) entries: EntryReader,
}

/// Entries of a part that are neither purged nor past the retention.
struct VisibleEntries {
    /// First visible index, which may be after the part. All entries of the part from it on must be there.
    first: i64,
    rows: Vec<EntryRow>,
}

impl VisibleEntries {
    fn none() -> Self {
        Self { first: i64::MAX, rows: vec![] }
    }
}

impl PartReader {
    /// Returns the log of an organization with its newest checkpoint; `None` before the first one.
    pub(in crate::export_sink) async fn signed_tree(
        &self,
        org_id: OrgId,
    ) -> Result<Option<SignedTree>> {
        let prover = Prover { db: &self.entries.db, guard: &self.entries.guard };
        prover.signed_tree(org_id).await
    }

    /// Reads the next part of a log: entries from `first` that were received on the same day, as many as fit,
    /// before `end`. Entries that are purged or past the retention are a part of their own.
    pub(in crate::export_sink) async fn next(
        &self,
        signed: &SignedTree,
        range: Range<i64>,
    ) -> Result<Part> {
        let part = self.try_next(signed, range).await;
        self.entries.guard.contain(signed.tree.org_id.0, part).await
    }

    /// Reads the part of a plan from `first`.
    pub(in crate::export_sink) async fn planned(
        &self,
        signed: &SignedTree,
        first: i64,
        plan: PartPlan,
    ) -> Result<Part> {
        let part = self.try_planned(signed, first, plan).await;
        self.entries.guard.contain(signed.tree.org_id.0, part).await
    }

    async fn try_next(&self, signed: &SignedTree, range: Range<i64>) -> Result<Part> {
        let mut visible = self.visible(signed, &range).await?;
        if visible.first > range.start {
            let end = visible.first.min(range.end).min(range.start + PART_ENTRIES_MAX);
            let plan = PartPlan { end, folder: PURGED_FOLDER.to_owned() };
            return self.part(signed, range.start, plan, VisibleEntries::none()).await;
        }
        let mut rows: Vec<EntryRow> = vec![];
        let mut leaf_bytes = 0;
        'reading: while visible.first < range.end {
            let batch = store::oldest_entries(&self.entries.db, &visible, BATCH).await?;
            let Some(last) = batch.last() else { break };
            visible.first = last.index + 1;
            for row in batch {
                leaf_bytes += row.leaf.len();
                let is_full = i64::try_from(rows.len()).is_ok_and(|it| it >= PART_ENTRIES_MAX)
                    || (leaf_bytes > PART_LEAF_BYTES_MAX && !rows.is_empty());
                if is_full || rows.first().is_some_and(|it| day(it) != day(&row)) {
                    break 'reading;
                }
                rows.push(row);
            }
        }
        let plan = match (rows.first(), rows.last()) {
            (Some(first), Some(last)) => PartPlan { end: last.index + 1, folder: folder(first) },
            // They were purged after the plan of the search.
            _ => PartPlan { end: range.start + 1, folder: PURGED_FOLDER.to_owned() },
        };
        let visible = VisibleEntries { first: range.start, rows };
        self.part(signed, range.start, plan, visible).await
    }

    async fn try_planned(&self, signed: &SignedTree, first: i64, plan: PartPlan) -> Result<Part> {
        let mut visible = self.visible(signed, &(first..plan.end)).await?;
        visible.first = visible.first.max(first);
        let limit = plan.end - first;
        let rows = store::oldest_entries(&self.entries.db, &visible, limit).await?;
        self.part(signed, first, plan, VisibleEntries { first: visible.first, rows }).await
    }

    /// Returns the plan of a search for the visible entries of a range. It begins with the first one, also if
    /// that is after the range.
    async fn visible(&self, signed: &SignedTree, range: &Range<i64>) -> Result<SearchPlan> {
        let org_id = Some(signed.tree.org_id);
        let mut plan = self.entries.plan(&EntryQuery { org_id, ..EntryQuery::default() }).await?;
        plan.first = plan.first.max(range.start);
        plan.end = plan.end.min(range.end);
        Ok(plan)
    }

    /// Verifies the entries of a part from `first`.
    async fn part(
        &self,
        signed: &SignedTree,
        first: i64,
        plan: PartPlan,
        visible: VisibleEntries,
    ) -> Result<Part> {
        let EntryReader { db, .. } = &self.entries;
        let VisibleEntries { first: first_visible, rows } = visible;
        let mut verification = LeafVerification::new(true);
        verification.require_all(db, signed, first_visible..plan.end, &rows).await?;
        verification.check(db, signed, &rows).await?;
        let indexes: Vec<i64> = (first..plan.end).collect();
        let hashes = verification.leaf_hashes(db, signed, &indexes).await?;
        let mut contents = self.contents(rows).await?;
        let entry =
            |(index, leaf_hash)| PartEntry { index, leaf_hash, content: contents.remove(&index) };
        Ok(Part { plan, entries: indexes.into_iter().zip(hashes).map(entry).collect() })
    }

    /// Opens entries. Returns them by index.
    async fn contents(&self, rows: Vec<EntryRow>) -> Result<BTreeMap<i64, Content>> {
        let codec = &self.entries.codec;
        let subject_keys = self.entries.subject_keys(&rows).await?;
        let entries = self.entries.open_entries(&rows).await?;
        let mut contents = BTreeMap::new();
        for (row, entry) in rows.into_iter().zip(entries) {
            let content = Content {
                keys: subject_keys.of_leaf(&codec.personal_fields, row.event_id, &row.leaf),
                is_leaf_withheld: url_credential::is_in_leaf(&codec.descriptors, &row.leaf),
                json: self.entries.json(&entry)?,
                record: Record::new(entry, &codec.action_names, &codec.descriptors),
                row,
            };
            contents.insert(content.row.index, content);
        }
        Ok(contents)
    }
}

/// Returns the folder of the day on which the log received an entry.
fn folder(row: &EntryRow) -> String {
    format!("date={}", day(row))
}

/// Returns the day on which the log received an entry, UTC.
fn day(row: &EntryRow) -> Date {
    let received_at: OffsetDateTime = row.received_at;
    received_at.to_offset(UtcOffset::UTC).date()
}
