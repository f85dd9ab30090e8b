//! Stream of an account's new notifications.

use std::collections::HashSet;

use api::notification as pb;
use chassis::{Db, Result, UserId};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;
use worker::watch::{Batch, Source, Then};

use crate::notification::inbox::store::{self, Position};

/// Time by which consecutive reads overlap: a transaction can commit after another one that began later.
const OVERLAP: Duration = Duration::minutes(1);

/// Number of remembered ids of sent notifications above which old ones are dropped.
const SENT_MAX: usize = 10_000;

/// The notifications of an account from a position on, each once.
pub(super) struct NewNotifications {
    db: Db,
    user_id: UserId,
    next: Position,
    /// Creation time at which the next read starts.
    from: OffsetDateTime,
    /// Notifications that were sent and may be read again.
    sent: HashSet<Uuid>,
}

impl NewNotifications {
    /// Starts after a notification that the reader has, or else at the present time.
    pub(super) fn new(db: Db, user_id: UserId, after: Option<Uuid>) -> Self {
        let now = db.now();
        let next = after.map_or(Position::CreatedAt(now), Position::After);
        Self { db, user_id, next, from: now, sent: HashSet::new() }
    }
}

impl Source for NewNotifications {
    type Message = pb::WatchNotificationsResponse;

    async fn read(&mut self) -> Result<Batch<Self::Message>> {
        let now = self.db.now();
        let mut rows = store::list_from(&self.db, self.user_id, self.next).await?;
        if self.sent.len() > SENT_MAX {
            // Only notifications within the overlap are read again.
            let overlap: HashSet<_> = rows.iter().map(|it| it.id).collect();
            self.sent.retain(|it| overlap.contains(it));
        }
        rows.retain(|it| self.sent.insert(it.id));
        self.from = self.from.max(now - OVERLAP);
        self.next = Position::CreatedAt(self.from);
        if rows.is_empty() {
            return Ok(Batch { messages: vec![], then: Then::Wait });
        }
        let unread_count = store::count_unread(&self.db, self.user_id, None).await?.all;
        let message = |item| pb::WatchNotificationsResponse {
            notification: Some(pb::Notification::from(item)),
            unread_count,
        };
        let messages = rows.iter().map(message).collect();
        Ok(Batch { messages, then: Then::Wait })
    }
}
