//! Rate limits of API keys: calls of one key (PL-12), and invalid keys from one network (PL-13).

use uuid::Uuid;

use crate::{
    Clock, Result,
    throttle::{FailureLimiter, Throttle},
};

/// Maximum number of reads with one key per minute.
const READS_MAX: u32 = 120;

/// Maximum number of changes with one key per minute.
const WRITES_MAX: u32 = 20;

/// Rate limits of API keys.
pub struct KeyLimits {
    reads: Throttle<Uuid>,
    writes: Throttle<Uuid>,
    failures: FailureLimiter,
}

impl KeyLimits {
    /// Creates the limits.
    pub fn new(clock: &Clock) -> Self {
        let blocked = "too many invalid API keys came from this address; retry after 15 minutes";
        Self {
            reads: Throttle::per_minute(READS_MAX, clock),
            writes: Throttle::per_minute(WRITES_MAX, clock),
            failures: FailureLimiter::new(clock, blocked),
        }
    }

    /// Counts a call of the key with this id; fails above its limit.
    pub fn check(&self, key_id: Uuid, is_read: bool) -> Result<()> {
        if is_read {
            self.reads.check(&key_id, "this API key may read 120 times per minute; retry later")
        } else {
            self.writes.check(&key_id, "this API key may make 20 changes per minute; retry later")
        }
    }

    /// Counts an invalid key from an address.
    pub fn record_failure(&self, address: &str) {
        self.failures.record_failure(address);
    }

    /// Fails if the network of an address is blocked because of invalid keys.
    pub fn check_address(&self, address: &str) -> Result<()> {
        self.failures.check(address)
    }
}
