//! The open transaction, as the work in it sees it.

use api::event as pb;
use sqlx::PgConnection;
use uuid::Uuid;

use super::Tx;
use crate::{
    call::{Account, account_actor},
    changed::Changed,
    clock::timestamp,
    key::random,
};

impl Tx {
    /// The connection, to run SQL on.
    pub fn conn(&mut self) -> &mut PgConnection {
        self.connection.get()
    }

    /// Makes the commit wake the background jobs of this process. [`Self::emit`] and queuing a mail include
    /// it. A job that found no work must not call it, or it would wake itself without end.
    pub fn wake(&mut self) {
        self.wakes_jobs = true;
    }

    /// Trace context of the call or the work of this transaction (`traceparent`), for work that continues it
    /// later. Empty if spans are not exported and the caller sent none.
    pub fn traceparent(&self) -> &str {
        &self.origin.traceparent
    }

    /// Makes the commit notify the subscribers of a topic in this process, which then read what the topic is
    /// about again.
    pub fn publish(&mut self, topic: Uuid) {
        self.published.push(topic);
    }

    /// Sets the actor of the events that follow, for calls that authenticate the caller themselves, such as a
    /// login.
    pub fn act_as(&mut self, account: &Account) {
        self.actor = account_actor(account);
    }

    /// Adds the events of a change, whose state has just been stored, to the transaction and returns the
    /// state. The first event of a transaction is its primary event, the parent of the others (AU-1, AU-2).
    pub fn emit<T>(&mut self, changed: Changed<T>) -> T {
        let (state, event, following) = changed.into_parts();
        self.wake();
        // The following events contain the parts of a long list, and the response does not name them.
        self.emitted_ids.push(event.id);
        for event in std::iter::once(event).chain(following) {
            self.events.push(event.envelope(pb::Envelope {
                source: self.source.to_owned(),
                actor: Some(self.actor.clone()),
                occur_time: Some(timestamp(self.now)),
                origin: Some(self.origin.clone()),
                // So that contents cannot be guessed from the hash of the event in the audit log.
                salt: random()[..16].to_vec(),
                ..Default::default()
            }));
        }
        state
    }

    /// Makes an event the primary one, although others are emitted before it. In a reaction it has no effect.
    pub fn set_primary<T>(&mut self, changed: &Changed<T>) {
        self.parent.get_or_insert(changed.event_id());
    }

    /// Sets the event of an earlier call that this transaction continues: it becomes the parent of the
    /// primary event. In a reaction it has no effect, because its parent is the event that it reacts to.
    pub fn set_cause(&mut self, event_id: Option<Uuid>) {
        self.cause = event_id;
    }

    /// Takes the events, sets the parent of each, and moves the primary event to the front of the emitted
    /// ids.
    pub(super) fn take_events(&mut self) -> Vec<pb::Envelope> {
        let mut events = std::mem::take(&mut self.events);
        let first = events.first().and_then(|it| Uuid::try_parse(&it.id).ok());
        let parent = self.parent.or(first).unwrap_or_default();
        for event in &mut events {
            let parent_id = parent.to_string();
            if event.id != parent_id {
                event.parent_event_id = parent_id;
            } else if let Some(cause) = self.cause {
                event.parent_event_id = cause.to_string();
            }
        }
        self.emitted_ids.sort_by_key(|it| *it != parent);
        events
    }
}
