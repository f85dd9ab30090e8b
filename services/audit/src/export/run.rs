//! An export from its first line to its last, a chunk at a time.

use api::audit::{self as pb, ExportFormat};
use chassis::{About, Call, Changed, Grant, OrgId, Result, page::Page};
use futures::{Stream, stream};
use serde_json::Value;
use tonic::Status;

use super::{bundle, csv, ocsf};
use crate::{
    entry::{
        Row,
        find::{self, Search, Wanted},
        read::Reader,
        rpc::{Rpc, export_wanted},
        store,
    },
    log::store::{loaded, stored},
    merkle::Node,
    proof::{self, rpc::not_yet_signed, store::Signed},
    seal,
};

/// Entries of a chunk.
const CHUNK: i64 = 200;

/// One export.
pub(crate) struct Export {
    reader: Reader,
    wanted: Wanted,
    search: Search,
    format: ExportFormat,
    page: Page,
    signed: Signed,
    /// What the first line of a bundle says about the suite's tree.
    suite: Option<Value>,
    origin: String,
    /// The next index, and how many entries were written.
    next: i64,
    count: i64,
    resumed: bool,
    over: bool,
}

type Answer = Result<pb::ExportEntriesResponse, Status>;

impl Export {
    /// Reads what is asked for, and fixes where the export ends: at the newest signed head, or at that of the
    /// export that is taken up again.
    pub(crate) async fn begin(
        rpc: &Rpc,
        call: &Call<pb::ExportEntriesRequest>,
        grant: &Grant,
    ) -> Result<Self> {
        let it = &call.message;
        let wanted = export_wanted(grant, &it.project_id, it.filter.clone())?;
        let format = match it.format() {
            ExportFormat::Unspecified => ExportFormat::Json,
            format => format,
        };
        let binding = [wanted.binding(), format.as_str_name().to_owned()];
        let binding: Vec<&str> = binding.iter().map(String::as_str).collect();
        let page = rpc.pager.page(call, 0, &it.cursor, &binding)?;
        let reader = rpc.reader.clone();
        let signed = proof::store::signed(&reader.db, grant.org_id()).await?;
        let mut signed = signed.ok_or_else(not_yet_signed)?;
        let mut search = find::search(&reader.db, &wanted).await?;
        let (mut next, mut count) = (search.first, 0);
        let resumed = page.after::<String>()?;
        if let Some(cursor) = &resumed {
            let parts: Vec<i64> = cursor.split(':').filter_map(|it| it.parse().ok()).collect();
            if let [at, written, size] = parts.as_slice() {
                (next, count, signed.size) = (*at, *written, loaded(*size)?);
            }
        }
        search.end = search.end.min(stored(signed.size)?);
        let whole = wanted.filter == pb::EntryFilter::default() && wanted.project_id.is_none();
        let bundle = format == ExportFormat::Bundle;
        let suite = if bundle && resumed.is_none() { rpc.suite(&signed).await? } else { None };
        if bundle && whole && resumed.is_none() {
            next = 0;
        }
        Ok(Self {
            origin: rpc.signer.origin(&grant.org_id().to_string()),
            reader,
            wanted,
            search,
            format,
            page,
            signed,
            suite,
            next,
            count,
            resumed: resumed.is_some(),
            over: false,
        })
    }

    /// What the log says about it (A-18, AU-5).
    pub(crate) fn event(&self, org_id: OrgId) -> Changed<()> {
        let event = pb::EntriesExported {
            format: self.format.as_str_name().trim_start_matches("EXPORT_FORMAT_").to_owned(),
            filter: self.filter(),
            resumed_at: if self.resumed { self.next } else { 0 },
        };
        Changed::new((), &event, About::object("organization", org_id, "").of(org_id))
    }

    /// What it is narrowed to, without the text that is searched for: it may be somebody's name (AU-4).
    fn filter(&self) -> String {
        let mut filter = self.wanted.filter.clone();
        if !filter.text.is_empty() {
            "…".clone_into(&mut filter.text);
        }
        self.reader.json(&filter).map(|it| it.to_string()).unwrap_or_default()
    }

    /// The file, as a stream of chunks.
    pub(crate) fn stream(self) -> impl Stream<Item = Answer> + Send {
        stream::unfold(self, async |mut it| {
            if it.over {
                return None;
            }
            let chunk = it.chunk().await;
            it.over |= chunk.is_err();
            Some((chunk.map_err(Status::from), it))
        })
    }

    async fn chunk(&mut self) -> Result<pb::ExportEntriesResponse> {
        let mut text = if self.resumed { String::new() } else { self.head() };
        self.resumed = true;
        if self.is_whole_bundle() && self.next < self.search.first {
            let count = self.hidden(&mut text).await?;
            return self.written(text, count);
        }
        self.search.first = self.search.first.max(self.next);
        let rows = store::oldest(&self.reader.db, &self.search, CHUNK).await?;
        let count = i64::try_from(rows.len()).unwrap_or_default();
        self.next = match rows.last() {
            Some(last) if count == CHUNK => last.index + 1,
            _ => self.search.end,
        };
        text += &self.lines(rows).await?;
        self.written(text, count)
    }

    fn written(&mut self, mut text: String, count: i64) -> Result<pb::ExportEntriesResponse> {
        self.count += count;
        self.over = self.next >= self.search.end;
        if self.over && self.format == ExportFormat::Bundle {
            text += &format!("{}\n", bundle::end(self.count));
        }
        let size = stored(self.signed.size)?;
        let cursor = format!("{}:{}:{size}", self.next, self.count);
        let cursor = if self.over { String::new() } else { self.page.token(&cursor) };
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        Ok(pb::ExportEntriesResponse { chunk: text.into_bytes(), cursor, count })
    }

    fn is_whole_bundle(&self) -> bool {
        let whole =
            self.wanted.filter == pb::EntryFilter::default() && self.wanted.project_id.is_none();
        whole && self.format == ExportFormat::Bundle
    }

    fn head(&mut self) -> String {
        match self.format {
            ExportFormat::Csv => csv::head(),
            ExportFormat::Bundle => {
                let whole = self.is_whole_bundle();
                let suite = self.suite.take().unwrap_or_default();
                format!("{}\n", bundle::head(&self.origin, &self.signed.note, whole, &suite))
            }
            _ => String::new(),
        }
    }

    /// The hashes of entries that are not shown any more.
    async fn hidden(&mut self, text: &mut String) -> Result<i64> {
        let end = self.search.first.min(self.search.end).min(self.next + 10 * CHUNK);
        let range: Vec<i64> = (self.next..end).collect();
        let node = |it: &i64| Ok(Node { level: 0, index: loaded(*it)? });
        let nodes = range.iter().map(node).collect::<Result<Vec<_>>>()?;
        let hashes = proof::store::hashes(&self.reader.db, &self.signed.tree, &nodes).await?;
        for (index, hash) in range.iter().zip(&hashes) {
            *text += &format!("{}\n", bundle::hidden(*index, hash));
        }
        self.next = end;
        Ok(i64::try_from(range.len()).unwrap_or_default())
    }

    async fn lines(&self, rows: Vec<Row>) -> Result<String> {
        if self.format == ExportFormat::Bundle {
            return self.proven(rows).await;
        }
        let mut text = String::new();
        for entry in self.reader.open(rows).await? {
            text += &match self.format {
                ExportFormat::Csv => csv::entry(&entry),
                ExportFormat::Ocsf => format!("{}\n", ocsf::entry(&entry)),
                _ => format!("{}\n", self.reader.json(&entry)?),
            };
        }
        Ok(text)
    }

    async fn proven(&self, rows: Vec<Row>) -> Result<String> {
        let (whole, persons) = (self.is_whole_bundle(), self.reader.keys(&rows).await?);
        let mut text = String::new();
        for row in rows {
            let of_leaf = seal::sealed_for(self.reader.ledger.plans(), &row.leaf).into_iter();
            let keys = of_leaf
                .filter_map(|it| Some((it, seal::leaf_key(persons.get(&it)?, row.event_id))))
                .collect();
            let path = if whole {
                None
            } else {
                let (db, tree) = (&self.reader.db, &self.signed.tree);
                let index = loaded(row.index)?;
                Some(proof::path::inclusion(db, tree, index, self.signed.size).await?)
            };
            text += &format!("{}\n", bundle::entry(&row, &keys, path.as_deref()));
        }
        Ok(text)
    }
}
