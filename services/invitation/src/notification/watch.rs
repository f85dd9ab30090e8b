//! What a person is told, as it comes.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use api::invitation as pb;
use chassis::{Access, Db, Result, UserId, call::Context};
use futures::{Stream, stream};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use uuid::Uuid;

use super::{Notification, store};

/// How often a watcher looks by itself, for what another process has written.
const LOOK: Duration = Duration::from_secs(3);

/// How far back a watcher looks each time: what began earlier can be committed later.
const BACK: time::Duration = time::Duration::minutes(1);

/// So many ids are remembered, so that nothing is sent twice.
const SEEN_MAX: usize = 10_000;

/// Sends a person what is new, until they go or the process ends.
pub(super) struct Watcher {
    pub(super) db: Db,
    pub(super) user_id: UserId,
    pub(super) heard: broadcast::Receiver<Arc<[Uuid]>>,
    pub(super) draining: CancellationToken,
    pub(super) access: Access,
    pub(super) context: Arc<Context>,
    /// From when on it looks.
    pub(super) from: time::OffsetDateTime,
    /// After which one it begins, the first time.
    pub(super) after: Option<Uuid>,
    pub(super) ready: VecDeque<Notification>,
    pub(super) seen: HashSet<Uuid>,
    /// Whether it has looked.
    pub(super) looked: bool,
    /// Whether it ended, with an error.
    pub(super) over: bool,
}

type New = Result<pb::WatchNotificationsResponse, Status>;

impl Watcher {
    /// What is new, as a stream.
    pub(super) fn stream(self) -> impl Stream<Item = New> + Send {
        stream::unfold(self, async |mut it| it.next().await.map(|new| (new, it)))
    }

    async fn next(&mut self) -> Option<New> {
        if self.over {
            return None;
        }
        while self.ready.is_empty() {
            if self.looked && !self.wait().await {
                return None;
            }
            self.looked = true;
            if let Err(error) = self.look().await {
                self.over = true;
                return Some(Err(error.into()));
            }
        }
        let it = self.ready.pop_front()?;
        let unread = store::unread(&self.db, self.user_id, None).await;
        Some(unread.map_err(Status::from).map(|(unread_count, _)| {
            let notification = Some((&it).into());
            pb::WatchNotificationsResponse { notification, unread_count }
        }))
    }

    /// Waits until there may be something; answers whether the process goes on.
    async fn wait(&mut self) -> bool {
        let (heard, user_id) = (&mut self.heard, self.user_id.0);
        let mine = async {
            // When so much was told that something was lost, it looks, too.
            while heard.recv().await.is_ok_and(|users| !users.contains(&user_id)) {}
        };
        tokio::select! {
            () = mine => true,
            () = tokio::time::sleep(LOOK) => true,
            () = self.draining.cancelled() => false,
        }
    }

    /// Reads what is new, if the credential is still good: a session that ended hears nothing more.
    async fn look(&mut self) -> Result<()> {
        self.access.still(&self.context).await?;
        let now = self.db.now();
        let range = (self.after.take(), self.from);
        let rows = store::since(&self.db, self.user_id, range).await?;
        if self.seen.len() > SEEN_MAX {
            // What is older than what is looked at never comes again.
            let near: HashSet<_> = rows.iter().map(|it| it.id).collect();
            self.seen.retain(|it| near.contains(it));
        }
        for it in rows {
            if self.seen.insert(it.id) {
                self.ready.push_back(it);
            }
        }
        self.from = self.from.max(now - BACK);
        Ok(())
    }
}
