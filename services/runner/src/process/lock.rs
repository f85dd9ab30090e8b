//! Locks of environments, shared by tasks and supervision.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

/// A lock per environment that serializes its changes.
#[derive(Default)]
pub(super) struct Locks(Mutex<HashMap<Uuid, Arc<tokio::sync::Mutex<()>>>>);

impl Locks {
    fn of(&self, id: Uuid) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, it| Arc::strong_count(it) > 1);
        locks.entry(id).or_default().clone()
    }

    /// Locks an environment; waits while it is locked.
    pub(super) async fn lock(&self, id: Uuid) -> OwnedMutexGuard<()> {
        self.of(id).lock_owned().await
    }

    /// Locks an environment; `None` if it is locked.
    pub(super) fn try_lock(&self, id: Uuid) -> Option<OwnedMutexGuard<()>> {
        self.of(id).try_lock_owned().ok()
    }
}
