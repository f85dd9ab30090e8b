//! The notifications of a person, as they come.

use std::collections::HashSet;

use api::invitation as pb;
use chassis::{
    Db, Result, UserId,
    follow::{Batch, Source, Then},
};
use uuid::Uuid;

use super::store;

/// How far back each read goes: what began earlier can be committed later.
const BACK: time::Duration = time::Duration::minutes(1);

/// Ids that are remembered, so that nothing is sent twice.
const SEEN_MAX: usize = 10_000;

/// The notifications of a person, from a moment on.
pub(super) struct NewNotifications {
    pub(super) db: Db,
    pub(super) user_id: UserId,
    pub(super) from: time::OffsetDateTime,
    /// The one after which the first read begins.
    pub(super) after: Option<Uuid>,
    pub(super) seen: HashSet<Uuid>,
}

impl Source for NewNotifications {
    type Message = pb::WatchNotificationsResponse;

    async fn read(&mut self) -> Result<Batch<Self::Message>> {
        let now = self.db.now();
        let range = (self.after.take(), self.from);
        let mut rows = store::since(&self.db, self.user_id, range).await?;
        if self.seen.len() > SEEN_MAX {
            // What is older than each read goes back never comes again.
            let near: HashSet<_> = rows.iter().map(|it| it.id).collect();
            self.seen.retain(|it| near.contains(it));
        }
        rows.retain(|it| self.seen.insert(it.id));
        self.from = self.from.max(now - BACK);
        if rows.is_empty() {
            return Ok(Batch { messages: vec![], then: Then::Wait });
        }
        let (unread_count, _) = store::unread(&self.db, self.user_id, None).await?;
        let message = |it| pb::WatchNotificationsResponse { notification: Some(it), unread_count };
        let messages = rows.iter().map(|it| message(it.into())).collect();
        Ok(Batch { messages, then: Then::Wait })
    }
}
