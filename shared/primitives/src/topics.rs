//! Notifications within the process by topic (the id of an object): a commit notifies the streams that watch
//! the changed object, and no others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;
use uuid::Uuid;

type Senders = Arc<Mutex<HashMap<Uuid, watch::Sender<()>>>>;

/// Topics with subscriptions in this process.
#[derive(Clone, Default)]
pub struct Topics(Senders);

/// A subscription to one topic. The topic is removed with its last subscription.
pub struct Subscription {
    topic: Uuid,
    receiver: watch::Receiver<()>,
    senders: Senders,
}

impl Topics {
    /// Subscribes to a topic.
    pub fn subscribe(&self, topic: Uuid) -> Subscription {
        let mut senders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = senders.entry(topic).or_insert_with(|| watch::Sender::new(())).subscribe();
        Subscription { topic, receiver, senders: self.0.clone() }
    }

    /// Notifies the subscriptions of these topics.
    pub fn publish(&self, topics: &[Uuid]) {
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
    /// Clears the notifications so far: [`Self::changed`] resolves for later ones.
    pub fn mark_read(&mut self) {
        self.receiver.mark_unchanged();
    }

    /// Resolves when there is a notification since the last call that resolved, or since the last
    /// [`Self::mark_read`].
    pub async fn changed(&mut self) {
        if self.receiver.changed().await.is_err() {
            // Unreachable: the sender is in the map as long as there is a subscription.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        // The receiver of this subscription is dropped afterwards, so it still counts.
        if senders.get(&self.topic).is_some_and(|it| it.receiver_count() <= 1) {
            senders.remove(&self.topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const TOPIC: Uuid = Uuid::from_u128(1);
    const OTHER_TOPIC: Uuid = Uuid::from_u128(2);

    #[tokio::test]
    async fn a_notification_reaches_the_subscriptions_of_its_topic_only() {
        let topics = Topics::default();
        let mut watching = topics.subscribe(TOPIC);
        let mut other = topics.subscribe(OTHER_TOPIC);
        topics.publish(&[TOPIC]);
        assert!(watching.changed().now_or_never().is_some(), "the notification is lost");
        assert!(other.changed().now_or_never().is_none(), "another topic was notified");
    }

    #[tokio::test]
    async fn notifications_resolve_once_and_not_after_they_are_marked_as_read() {
        let topics = Topics::default();
        let mut subscription = topics.subscribe(TOPIC);
        topics.publish(&[TOPIC]);
        topics.publish(&[TOPIC]);
        assert!(subscription.changed().now_or_never().is_some(), "the notifications are lost");
        assert!(subscription.changed().now_or_never().is_none(), "two notifications resolve twice");
        topics.publish(&[TOPIC]);
        subscription.mark_read();
        assert!(subscription.changed().now_or_never().is_none(), "a read notification resolves");
    }

    #[test]
    fn a_topic_is_removed_with_its_last_subscription() {
        let topics = Topics::default();
        let count = || topics.0.lock().unwrap().len();
        let (first, last) = (topics.subscribe(TOPIC), topics.subscribe(TOPIC));
        drop(first);
        assert_eq!(count(), 1, "a topic with a subscription was removed");
        drop(last);
        assert_eq!(count(), 0, "a topic without subscriptions remains");
    }
}
