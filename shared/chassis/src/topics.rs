//! Wake-ups within this process, by the object that changed: a commit wakes the streams that follow this
//! object and no others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;
use uuid::Uuid;

type Senders = Arc<Mutex<HashMap<Uuid, watch::Sender<()>>>>;

/// Objects that streams of this process follow.
#[derive(Clone, Default)]
pub(crate) struct Topics(Senders);

/// A stream's interest in one object.
pub struct Subscription {
    topic: Uuid,
    receiver: watch::Receiver<()>,
    senders: Senders,
}

impl Topics {
    pub(crate) fn subscribe(&self, topic: Uuid) -> Subscription {
        let mut senders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = senders.entry(topic).or_insert_with(|| watch::Sender::new(())).subscribe();
        Subscription { topic, receiver, senders: self.0.clone() }
    }

    pub(crate) fn publish(&self, topics: &[Uuid]) {
        if topics.is_empty() {
            return;
        }
        let senders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for sender in topics.iter().filter_map(|it| senders.get(it)) {
            sender.send_replace(());
        }
    }
}

impl Subscription {
    /// Marks what was published so far as read: [`Self::changed`] resolves for what comes after this.
    pub fn mark_read(&mut self) {
        self.receiver.mark_unchanged();
    }

    /// Resolves once something was published since the last [`Self::mark_read`].
    pub async fn changed(&mut self) {
        if self.receiver.changed().await.is_err() {
            // The sender stays in the map while there is a subscription.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        if senders.get(&self.topic).is_some_and(|it| it.receiver_count() <= 1) {
            senders.remove(&self.topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_commit_wakes_those_who_follow_its_objects_and_nobody_else() {
        let (topics, one, two) = (Topics::default(), Uuid::from_u128(1), Uuid::from_u128(2));
        let (mut first, mut other) = (topics.subscribe(one), topics.subscribe(two));
        topics.publish(&[one]);
        topics.publish(&[one]);
        assert!(first.changed().now_or_never().is_some());
        assert!(first.changed().now_or_never().is_none(), "a burst wakes once");
        assert!(other.changed().now_or_never().is_none());
        topics.publish(&[one]);
        first.mark_read();
        assert!(first.changed().now_or_never().is_none());
        drop(first);
        assert_eq!(topics.0.lock().unwrap().len(), 1, "nobody follows it any more");
    }
}
