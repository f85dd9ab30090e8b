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

    /// Resolves when there is a notification since the last [`Self::mark_read`].
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
    async fn a_notification_reaches_the_subscriptions_of_its_topic_only() {
        let topics = Topics::default();
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut first = topics.subscribe(one);
        let mut other = topics.subscribe(two);
        topics.publish(&[one]);
        topics.publish(&[one]);
        assert!(first.changed().now_or_never().is_some());
        assert!(first.changed().now_or_never().is_none(), "several notifications resolve once");
        assert!(other.changed().now_or_never().is_none());
        topics.publish(&[one]);
        first.mark_read();
        assert!(first.changed().now_or_never().is_none());
        drop(first);
        assert_eq!(topics.0.lock().unwrap().len(), 1, "a topic without subscriptions is removed");
    }
}
