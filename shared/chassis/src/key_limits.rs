//! Limits of API keys: how often one may call (PL-12), and how often an address may guess (PL-13).

use uuid::Uuid;

use crate::{
    Clock, Result,
    throttle::{Guesses, Throttle},
};

/// Reads of one key in a minute.
const READS_MAX: u32 = 120;

/// Changes of one key in a minute.
const WRITES_MAX: u32 = 20;

/// Counts what keys do, and refused keys by address.
pub(crate) struct KeyLimits {
    reads: Throttle<Uuid>,
    writes: Throttle<Uuid>,
    guesses: Guesses,
}

impl KeyLimits {
    pub(crate) fn new(clock: &Clock) -> Self {
        let blocked =
            "too many API keys from this address were refused; it is blocked for 15 minutes";
        Self {
            reads: Throttle::per_minute(READS_MAX, clock),
            writes: Throttle::per_minute(WRITES_MAX, clock),
            guesses: Guesses::new(clock, blocked),
        }
    }

    /// Counts a call of a key.
    pub(crate) fn check(&self, key: Uuid, read: bool) -> Result<()> {
        if read {
            self.reads.check(&key, "this API key read 120 times within a minute; retry later")
        } else {
            self.writes.check(&key, "this API key made 20 changes within a minute; retry later")
        }
    }

    /// Counts a key that was none.
    pub(crate) fn refused(&self, address: &str) {
        self.guesses.wrong(address);
    }

    /// Refuses an address that guesses.
    pub(crate) fn check_address(&self, address: &str) -> Result<()> {
        self.guesses.check(address)
    }
}
