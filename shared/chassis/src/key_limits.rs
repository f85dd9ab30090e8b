//! Limits of API keys: how often one may call (PL-12), and how often an address may guess (PL-13).

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use api::error::Reason;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::{
    Clock, Error, Result,
    throttle::{Throttle, place},
};

/// Reads of one key in a minute.
const READS_MAX: u32 = 120;

/// Changes of one key in a minute.
const WRITES_MAX: u32 = 20;

/// After so many refused keys an address is blocked.
const REFUSED_MAX: u32 = 10;

/// For so long, from the last refused key on.
const BLOCKED: Duration = Duration::minutes(15);

/// Above so many addresses those whose time is over are forgotten.
const ADDRESSES_MAX: usize = 10_000;

/// Counts what keys do, and refused keys by address.
pub(crate) struct KeyLimits {
    clock: Clock,
    reads: Throttle<Uuid>,
    writes: Throttle<Uuid>,
    refused: Mutex<HashMap<String, (u32, OffsetDateTime)>>,
}

impl KeyLimits {
    pub(crate) fn new(clock: &Clock) -> Self {
        Self {
            clock: clock.clone(),
            reads: Throttle::per_minute(READS_MAX, clock),
            writes: Throttle::per_minute(WRITES_MAX, clock),
            refused: Mutex::default(),
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
        let now = self.clock.now();
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() > ADDRESSES_MAX {
            refused.retain(|_, it| it.1 + BLOCKED > now);
        }
        let entry = refused.entry(place(address)).or_insert((0, now));
        let count = if entry.1 + BLOCKED > now { entry.0 } else { 0 };
        *entry = (count.saturating_add(1), now);
    }

    /// Refuses an address that guesses.
    pub(crate) fn check_address(&self, address: &str) -> Result<()> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((count, last)) = refused.get(&place(address)) else { return Ok(()) };
        let rest = *last + BLOCKED - self.clock.now();
        if *count < REFUSED_MAX || rest.is_negative() {
            return Ok(());
        }
        Err(Error::Limited {
            reason: Reason::AddressBlocked,
            message: "too many API keys from this address were refused; it is blocked for 15 minutes",
            retry_after: rest.unsigned_abs(),
        })
    }
}
