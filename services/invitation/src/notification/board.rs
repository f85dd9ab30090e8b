//! Who has something new, told inside this process.

use std::sync::Arc;

use tokio::sync::broadcast;
use uuid::Uuid;

/// Wakes whoever watches, in this process; those in others look by themselves.
#[derive(Clone)]
pub(crate) struct Board(broadcast::Sender<Arc<[Uuid]>>);

impl Board {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(256))
    }

    /// These people have something new.
    pub(crate) fn tell(&self, users: Vec<Uuid>) {
        if !users.is_empty() {
            // Nobody may be watching.
            let _ = self.0.send(users.into());
        }
    }

    /// Hears who has something new.
    pub(crate) fn watch(&self) -> broadcast::Receiver<Arc<[Uuid]>> {
        self.0.subscribe()
    }
}
