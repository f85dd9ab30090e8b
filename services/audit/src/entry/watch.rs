//! Stream of new entries that match a query.

use api::audit as pb;
use chassis::Result;
use worker::watch::{Batch, Source, Then};

use super::{read::EntryReader, search::EntryQuery, store};

/// Most entries of one read.
const BATCH_SIZE: i64 = 100;

/// Source of the entries that match a query, from an index on.
pub(crate) struct NewEntries {
    reader: EntryReader,
    query: EntryQuery,
    next_index: i64,
}

impl NewEntries {
    /// Starts at an index; `None` means after the newest entry.
    pub(crate) async fn start(
        reader: EntryReader,
        query: EntryQuery,
        from_index: Option<i64>,
    ) -> Result<Self> {
        let end = reader.plan(&query).await?.end;
        let next_index = from_index.unwrap_or(end);
        Ok(Self { reader, query, next_index })
    }
}

impl Source for NewEntries {
    type Message = pb::Entry;

    async fn read(&mut self) -> Result<Batch<Self::Message>> {
        let mut plan = self.reader.plan(&self.query).await?;
        plan.first = plan.first.max(self.next_index);
        let rows = store::oldest_entries(&self.reader.db, &plan, BATCH_SIZE).await?;
        let is_full = i64::try_from(rows.len()).is_ok_and(|it| it == BATCH_SIZE);
        // After the last match, the whole range is done: entries that do not match are not scanned again.
        self.next_index = match rows.last() {
            Some(last) if is_full => last.index + 1,
            _ => self.next_index.max(plan.end),
        };
        let messages = self.reader.open_entries(&rows).await?;
        Ok(Batch { messages, then: if is_full { Then::Read } else { Then::Wait } })
    }
}
