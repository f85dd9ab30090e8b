//! Entries as they come.

use api::audit as pb;
use chassis::{
    Result,
    follow::{Batch, Source, Then},
};

use super::{
    find::{self, Wanted},
    read::Reader,
    store,
};

/// Entries that are read at once.
const BATCH: i64 = 100;

/// The entries that a filter finds, from an index on.
pub(crate) struct NewEntries {
    pub(crate) reader: Reader,
    pub(crate) wanted: Wanted,
    pub(crate) next_index: i64,
}

impl Source for NewEntries {
    type Message = pb::WatchEntriesResponse;

    async fn read(&mut self) -> Result<Batch<Self::Message>> {
        let mut search = find::search(&self.reader.db, &self.wanted).await?;
        search.first = search.first.max(self.next_index);
        let rows = store::oldest(&self.reader.db, &search, BATCH).await?;
        let is_full = i64::try_from(rows.len()).is_ok_and(|it| it == BATCH);
        // Entries that the filter does not find are not looked at again.
        self.next_index = match rows.last() {
            Some(last) if is_full => last.index + 1,
            _ => self.next_index.max(search.end),
        };
        let entries = self.reader.open(rows).await?.into_iter();
        let messages = entries.map(|it| pb::WatchEntriesResponse { entry: Some(it) }).collect();
        Ok(Batch { messages, then: if is_full { Then::Read } else { Then::Wait } })
    }
}
