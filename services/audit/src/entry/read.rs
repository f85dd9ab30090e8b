//! Conversion of stored entries to API entries: personal fields are opened, credentials in URLs are
//! masked, and changed fields are listed.

use std::{collections::BTreeSet, sync::Arc};

use api::{audit as pb, event::Envelope};
use chassis::{Db, Result, page::Page, timestamp};
use prost::Message;
use prost_reflect::DynamicMessage;

use super::{
    EntryRow,
    search::{self, EntryQuery, SearchPlan},
    store,
};
use crate::{
    diff::changed_fields,
    integrity::guard::LogGuard,
    leaf_codec::LeafCodec,
    log::EntryFlags,
    merkle::leaf_hash,
    seal::{self, SubjectKeys},
    subject_key,
    url_credential::mask_event,
};

/// Reader of entries.
#[derive(Clone)]
pub(crate) struct EntryReader {
    pub(crate) db: Db,
    pub(crate) codec: Arc<LeafCodec>,
    pub(crate) guard: LogGuard,
}

/// A page of a list of entries.
pub(crate) struct EntryPage {
    pub(crate) entries: Vec<pb::Entry>,
    pub(crate) next_page_token: String,
}

impl EntryReader {
    pub(crate) fn new(db: Db, codec: Arc<LeafCodec>, guard: LogGuard) -> Self {
        Self { db, codec, guard }
    }

    /// Plans a search. Fails with LOG_CORRUPTED if the log is damaged.
    pub(crate) async fn plan(&self, query: &EntryQuery) -> Result<SearchPlan> {
        let plan = search::plan(&self.db, &self.guard.heads, query).await;
        self.guard.contain(query.tree_id().0, plan).await
    }

    /// Returns one page of entries, newest first (AU-12).
    pub(crate) async fn list(&self, query: &EntryQuery, page: &Page) -> Result<EntryPage> {
        let mut plan = self.plan(query).await?;
        if let Some(previous_index) = page.after::<i64>()? {
            plan.end = plan.end.min(previous_index);
        }
        let rows = store::newest_entries(&self.db, &plan, page.limit()).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.index.to_string());
        Ok(EntryPage { entries: self.open_entries(&rows).await?, next_page_token })
    }

    /// Returns the keys of the people whose fields are sealed in these entries; erased people have none.
    pub(crate) async fn subject_keys(&self, rows: &[EntryRow]) -> Result<SubjectKeys> {
        let fields = &self.codec.personal_fields;
        let subjects: BTreeSet<_> =
            rows.iter().flat_map(|it| seal::sealed_subjects(fields, &it.leaf)).collect();
        subject_key::store::get(&self.db, &self.codec.vault, &subjects).await
    }

    /// Converts entries to API entries, in the same order.
    pub(crate) async fn open_entries(&self, rows: &[EntryRow]) -> Result<Vec<pb::Entry>> {
        let keys = self.subject_keys(rows).await?;
        rows.iter().map(|it| self.open_entry(it, &keys)).collect()
    }

    /// Formats a message as canonical protobuf JSON.
    pub(crate) fn json<M: Message + prost::Name>(&self, message: &M) -> Result<serde_json::Value> {
        let descriptor = self.codec.descriptors.get_message_by_name(&M::full_name());
        let descriptor =
            descriptor.ok_or_else(|| anyhow::anyhow!("unknown message {}", M::full_name()))?;
        let dynamic = DynamicMessage::decode(descriptor, &*message.encode_to_vec());
        let dynamic = dynamic.map_err(anyhow::Error::from)?;
        Ok(serde_json::to_value(&dynamic).map_err(anyhow::Error::from)?)
    }

    fn open_entry(&self, row: &EntryRow, keys: &SubjectKeys) -> Result<pb::Entry> {
        let fields = &self.codec.personal_fields;
        let opened = seal::open_leaf(fields, row.event_id, &row.leaf, keys);
        let opened = opened.unwrap_or_else(|| row.leaf.clone());
        let mut envelope = Envelope::decode(&*opened).map_err(anyhow::Error::from)?;
        let descriptors = &self.codec.descriptors;
        let masked = envelope.event.as_ref().and_then(|it| mask_event(descriptors, it));
        envelope.event = masked.or(envelope.event);
        let changes = envelope.event.as_ref().map(|it| changed_fields(descriptors, it));
        Ok(pb::Entry {
            index: row.index,
            action: self.codec.action_names.action_of(&envelope).to_owned(),
            changes: changes.unwrap_or_default(),
            envelope: Some(envelope),
            receive_time: Some(timestamp(row.received_at)),
            leaf_hash: leaf_hash(&row.leaf).to_vec(),
            flags: EntryFlags(row.flags).names(),
        })
    }
}
