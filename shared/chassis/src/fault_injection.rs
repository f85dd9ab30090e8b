//! Fault injection: tests switch a protection off to show that the system fails without it.

/// Injected faults. All are false outside of tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultInjection {
    /// Drops a handler when its client disconnects, instead of running it to its end.
    pub drop_handlers: bool,
    /// Returns connections with an open transaction to the pool, instead of closing them.
    pub reuse_open_transactions: bool,
    /// Makes outbox readers skip events of transactions that are still running.
    pub skip_running_transactions: bool,
    /// Acknowledges an event to NATS before its effects are committed.
    pub acknowledge_early: bool,
    /// Deletes an event from the outbox as soon as NATS has it.
    pub delete_published_events: bool,
    /// Records an event that is delivered twice as two entries of the audit log.
    pub record_duplicates: bool,
    /// Lets statements wait for a lock for 30 s, for tests that hold a lock until slow calls have reached it.
    pub long_lock_waits: bool,
}
