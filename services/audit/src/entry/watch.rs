//! Entries as they come.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use api::audit as pb;
use chassis::{Access, Result, ScopeGrant, call::Context};
use futures::{Stream, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    find::{self, Wanted},
    read::Reader,
    store,
};

/// Another process may have written what this one is not woken for.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is asked whether the reader still may.
const ASK: Duration = Duration::from_secs(5);
/// Entries that are read at once.
const BATCH: i64 = 100;

/// Who watches what, from where.
pub(crate) struct Watch {
    pub(crate) reader: Reader,
    pub(crate) access: Access,
    pub(crate) grant: ScopeGrant,
    pub(crate) context: Arc<Context>,
    pub(crate) draining: CancellationToken,
    pub(crate) wanted: Wanted,
    /// The next index that is wanted.
    pub(crate) next: i64,
    pub(crate) ready: VecDeque<pb::Entry>,
    pub(crate) asked: Instant,
    pub(crate) over: bool,
}

type Answer = Result<pb::WatchEntriesResponse, Status>;

impl Watch {
    /// The entries, as a stream.
    pub(crate) fn stream(self) -> impl Stream<Item = Answer> + Send {
        stream::unfold(self, async |mut it| it.next().await.map(|answer| (answer, it)))
    }

    async fn next(&mut self) -> Option<Answer> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                return Some(Ok(pb::WatchEntriesResponse { entry: Some(entry) }));
            }
            if self.over {
                return None;
            }
            let db = self.reader.db.clone();
            let changed = db.changed();
            tokio::pin!(changed);
            // Before it looks, so that nothing comes between.
            changed.as_mut().enable();
            if let Err(error) = self.look().await {
                self.over = true;
                return Some(Err(error.into()));
            }
            if !self.ready.is_empty() {
                continue;
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(LOOK) => {}
                () = self.draining.cancelled() => {
                    self.over = true;
                    let message = "this server is going away; ask again from the next index";
                    return Some(Err(Status::unavailable(message)));
                }
            }
        }
    }

    async fn look(&mut self) -> Result<()> {
        if self.asked.elapsed() > ASK {
            self.access.again(&self.context, &self.grant).await?;
            self.asked = Instant::now();
        }
        let mut search = find::search(&self.reader.db, &self.wanted).await?;
        search.first = search.first.max(self.next);
        let rows = store::oldest(&self.reader.db, &search, BATCH).await?;
        let full = i64::try_from(rows.len()).is_ok_and(|it| it == BATCH);
        // What was passed over is not looked at again.
        let last = rows.last().map(|it| it.index + 1);
        self.next = if full { last.unwrap_or(self.next) } else { self.next.max(search.end) };
        self.ready = self.reader.open(rows).await?.into();
        Ok(())
    }
}
