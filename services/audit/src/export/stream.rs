//! An export as a stream of chunks, which can be resumed at a cursor.

use std::{fmt, str::FromStr};

use api::audit::{self as pb, ExportFormat};
use chassis::{Changed, EventTarget, OrgId, Result, page::Page};
use futures::{Stream, stream};
use serde_json::Value;
use tonic::Status;

use super::{bundle, csv, ocsf, record::Record, verification::LeafVerification};
use crate::{
    db_int::{from_db_int, to_db_int},
    entry::{
        EntryRow,
        read::EntryReader,
        search::{EntryQuery, SearchPlan},
        store,
    },
    note::CheckpointSigner,
    proof::{self, prove::Prover, store::SignedTree},
    url_credential,
};

/// Entries of one chunk.
const CHUNK_ENTRIES: i64 = 200;
/// Lines of one chunk that have only a hash.
const CHUNK_HASHES: i64 = 10 * CHUNK_ENTRIES;

/// Request of an export.
pub(crate) struct ExportRequest {
    pub(crate) org_id: OrgId,
    pub(crate) query: EntryQuery,
    pub(crate) format: ExportFormat,
    /// The cursor to resume at, and the key of further cursors.
    pub(crate) page: Page,
}

/// A running export.
pub(crate) struct Export {
    reader: EntryReader,
    request: ExportRequest,
    plan: SearchPlan,
    signed: SignedTree,
    /// Header of a bundle: proof that the checkpoint is in the suite tree.
    suite_proof: Option<Value>,
    /// Header of a bundle: origin of the checkpoint.
    origin: String,
    /// Index of the next entry.
    next_index: i64,
    /// Entries written so far, including those before a resumption.
    written: i64,
    verification: LeafVerification,
    /// True if the first line is already written.
    header_written: bool,
    finished: bool,
}

/// A part of the file; whole lines.
pub(crate) struct Chunk {
    pub(crate) text: String,
    /// Cursor to resume after this chunk; empty in the last one.
    pub(crate) cursor: String,
    /// Entries in this chunk.
    pub(crate) count: i64,
}

/// Position of an export, encoded as `next_index:written:signed_size`.
struct Cursor {
    next_index: i64,
    written: i64,
    /// Entries that the checkpoint covers at which the export ends.
    signed_size: i64,
}

#[derive(Debug, thiserror::Error)]
#[error("malformed export cursor")]
struct MalformedCursor;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.next_index, self.written, self.signed_size)
    }
}

impl FromStr for Cursor {
    type Err = MalformedCursor;

    fn from_str(text: &str) -> Result<Self, MalformedCursor> {
        let numbers: Vec<i64> = text.split(':').filter_map(|it| it.parse().ok()).collect();
        let &[next_index, written, signed_size] = numbers.as_slice() else {
            return Err(MalformedCursor);
        };
        Ok(Self { next_index, written, signed_size })
    }
}

impl Export {
    /// Plans an export. It ends at the newest checkpoint; a resumed one ends where the original would have.
    pub(crate) async fn start(
        reader: EntryReader,
        signer: &CheckpointSigner,
        request: ExportRequest,
    ) -> Result<Self> {
        let prover = Prover { db: &reader.db, guard: &reader.guard };
        let signed = prover.signed_tree(request.org_id).await?;
        let mut signed = signed.ok_or_else(proof::not_yet_signed)?;
        let mut plan = reader.plan(&request.query).await?;
        let cursor = request.page.after::<Cursor>()?;
        if let Some(cursor) = &cursor {
            signed.size = from_db_int(cursor.signed_size)?;
        }
        plan.end = plan.end.min(to_db_int(signed.size)?);
        let is_bundle = request.format == ExportFormat::Bundle;
        let is_complete_bundle = is_bundle && request.query.is_unfiltered();
        let first_index = if is_complete_bundle { 0 } else { plan.first };
        let suite_proof = if is_bundle && cursor.is_none() {
            let proof = prover.suite(&signed).await?;
            proof.map(|it| reader.json(&it)).transpose()?
        } else {
            None
        };
        Ok(Self {
            origin: signer.origin(&request.org_id.to_string()),
            next_index: cursor.as_ref().map_or(first_index, |it| it.next_index),
            written: cursor.as_ref().map_or(0, |it| it.written),
            verification: LeafVerification::new(cursor.is_some()),
            header_written: cursor.is_some(),
            finished: false,
            reader,
            request,
            plan,
            signed,
            suite_proof,
        })
    }

    /// Returns the event that records the export in the log (A-18, AU-5).
    pub(crate) fn event(&self) -> Changed<()> {
        let format = self.request.format.as_str_name().trim_start_matches("EXPORT_FORMAT_");
        let event = pb::AuditEntriesExported {
            format: format.to_owned(),
            filter: self.redacted_filter(),
            resumed_at: if self.header_written { self.next_index } else { 0 },
        };
        let org_id = self.request.org_id;
        let target = EventTarget::object("organization", org_id, "").in_org(org_id);
        Changed::new((), &event, target)
    }

    /// Returns the filter as JSON, without the searched text, which may be the name of a person (AU-4).
    fn redacted_filter(&self) -> String {
        let mut filter = self.request.query.filter.clone();
        if !filter.text.is_empty() {
            "…".clone_into(&mut filter.text);
        }
        self.reader.json(&filter).map(|it| it.to_string()).unwrap_or_default()
    }

    /// Returns the file as a stream of chunks.
    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<Chunk, Status>> + Send {
        stream::unfold(self, async |mut export| {
            if export.finished {
                return None;
            }
            let chunk = export.next_contained_chunk().await;
            export.finished |= chunk.is_err();
            Some((chunk.map_err(Status::from), export))
        })
    }

    /// Returns the next chunk. If the log turns out to be damaged, it is put into quarantine.
    async fn next_contained_chunk(&mut self) -> Result<Chunk> {
        let chunk = self.next_chunk().await;
        self.reader.guard.contain(self.request.org_id.0, chunk).await
    }

    async fn next_chunk(&mut self) -> Result<Chunk> {
        let mut text = if self.header_written { String::new() } else { self.header() };
        self.header_written = true;
        if self.is_complete_bundle() && self.next_index < self.plan.first {
            let count = self.write_hash_only_lines(&mut text).await?;
            return self.finish_chunk(text, count);
        }
        self.plan.first = self.plan.first.max(self.next_index);
        let rows = store::oldest_entries(&self.reader.db, &self.plan, CHUNK_ENTRIES).await?;
        let count = i64::try_from(rows.len()).unwrap_or_default();
        let next_index = match rows.last() {
            Some(last) if count == CHUNK_ENTRIES => last.index + 1,
            _ => self.plan.end,
        };
        if self.request.query.is_unfiltered() {
            let range = self.plan.first..next_index;
            self.verification.require_all(&self.reader.db, &self.signed, range, &rows).await?;
        }
        self.verification.check(&self.reader.db, &self.signed, &rows).await?;
        self.next_index = next_index;
        text += &self.format_entries(&rows).await?;
        self.finish_chunk(text, count)
    }

    /// Appends the last line if this is the last chunk, and makes the cursor.
    fn finish_chunk(&mut self, mut text: String, count: i64) -> Result<Chunk> {
        self.written += count;
        self.finished = self.next_index >= self.plan.end;
        if self.finished && self.is_complete_bundle() {
            self.verification.finish(&self.signed)?;
        }
        if self.finished && self.request.format == ExportFormat::Bundle {
            text += &format!("{}\n", bundle::last_line(self.written));
        }
        let cursor = if self.finished {
            String::new()
        } else {
            let cursor = Cursor {
                next_index: self.next_index,
                written: self.written,
                signed_size: to_db_int(self.signed.size)?,
            };
            self.request.page.token(&cursor.to_string())
        };
        Ok(Chunk { text, cursor, count })
    }

    /// True for a bundle that proves that no entry is missing.
    fn is_complete_bundle(&self) -> bool {
        self.request.format == ExportFormat::Bundle && self.request.query.is_unfiltered()
    }

    /// Returns the first line of the file.
    fn header(&mut self) -> String {
        match self.request.format {
            ExportFormat::Csv => csv::header(),
            ExportFormat::Bundle => {
                let is_complete = self.is_complete_bundle();
                let suite_proof = self.suite_proof.take().unwrap_or_default();
                let header =
                    bundle::header(&self.origin, &self.signed.note, is_complete, &suite_proof);
                format!("{header}\n")
            }
            _ => String::new(),
        }
    }

    /// Appends the lines of entries that are not visible any more: their hashes.
    async fn write_hash_only_lines(&mut self, text: &mut String) -> Result<i64> {
        let end = self.plan.first.min(self.plan.end).min(self.next_index + CHUNK_HASHES);
        let indexes: Vec<i64> = (self.next_index..end).collect();
        let hashes = self.verification.leaf_hashes(&self.reader.db, &self.signed, &indexes).await?;
        for (index, hash) in indexes.iter().zip(&hashes) {
            self.verification.push(hash);
            *text += &format!("{}\n", bundle::hash_only_line(*index, hash));
        }
        self.next_index = end;
        Ok(i64::try_from(indexes.len()).unwrap_or_default())
    }

    async fn format_entries(&self, rows: &[EntryRow]) -> Result<String> {
        if self.request.format == ExportFormat::Bundle {
            return self.format_bundle_entries(rows).await;
        }
        let mut text = String::new();
        for entry in self.reader.open_entries(rows).await? {
            let record = |entry| {
                let codec = &self.reader.codec;
                Record::new(entry, &codec.action_names, &codec.descriptors)
            };
            text += &match self.request.format {
                ExportFormat::Csv => csv::line(&record(entry)),
                ExportFormat::Ocsf => format!("{}\n", ocsf::event(&record(entry))),
                _ => format!("{}\n", self.reader.json(&entry)?),
            };
        }
        Ok(text)
    }

    /// Formats the lines of a bundle. In a complete bundle, the root over all leaves proves each entry;
    /// otherwise each entry has its inclusion proof.
    async fn format_bundle_entries(&self, rows: &[EntryRow]) -> Result<String> {
        let fields = &self.reader.codec.personal_fields;
        let subject_keys = self.reader.subject_keys(rows).await?;
        let mut text = String::new();
        for row in rows {
            let leaf_keys = subject_keys.of_leaf(fields, row.event_id, &row.leaf);
            let proof = if self.is_complete_bundle() {
                None
            } else {
                let prover = Prover { db: &self.reader.db, guard: &self.reader.guard };
                let index = from_db_int(row.index)?;
                Some(prover.inclusion(&self.signed, index, &row.leaf).await?)
            };
            let is_withheld = url_credential::is_in_leaf(&self.reader.codec.descriptors, &row.leaf);
            let line = if is_withheld {
                bundle::withheld_line(row, proof.as_deref())
            } else {
                bundle::entry_line(row, &leaf_keys, proof.as_deref())
            };
            text += &format!("{line}\n");
        }
        Ok(text)
    }
}
