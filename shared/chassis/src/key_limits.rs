//! Rate limits of API keys: calls of one key (PL-12), and invalid keys from one network (PL-13).

use uuid::Uuid;

use crate::{
    Db, Result,
    rate_limit::{FailureLimit, RateLimit},
};

/// Maximum number of reads with one key per minute.
const READS_MAX: u32 = 120;

/// Maximum number of changes with one key per minute.
const WRITES_MAX: u32 = 20;

/// Rate limits of API keys, of all replicas of a process together.
pub struct KeyLimits {
    reads: RateLimit,
    writes: RateLimit,
    failures: FailureLimit,
}

impl KeyLimits {
    /// Creates the limits, with their state in a database.
    pub fn new(db: &Db) -> Self {
        let reads = "this API key may read 120 times per minute; retry later";
        let writes = "this API key may make 20 changes per minute; retry later";
        let blocked = "too many invalid API keys came from this address; retry after 15 minutes";
        Self {
            reads: RateLimit::per_minute(db, "reads of an API key", READS_MAX, reads),
            writes: RateLimit::per_minute(db, "changes of an API key", WRITES_MAX, writes),
            failures: FailureLimit::new(db, "invalid API keys", blocked),
        }
    }

    /// Counts a call of the key with this id; fails above its limit.
    pub async fn check(&self, key_id: Uuid, is_read: bool) -> Result<()> {
        let limit = if is_read { &self.reads } else { &self.writes };
        limit.check(&key_id).await
    }

    /// Counts an invalid key from an address.
    pub async fn record_failure(&self, address: &str) -> Result<()> {
        self.failures.record_failure(address).await
    }

    /// Fails if the network of an address is blocked because of invalid keys.
    pub fn check_address(&self, address: &str) -> Result<()> {
        self.failures.check(address)
    }
}
