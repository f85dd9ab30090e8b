//! Rate limits by key, of all replicas of a service together: calls per minute, and failures in a row.
//!
//! The state is in the table `rate_limit`, under a hash of the limit and the key. Each process refuses calls
//! by its own state first, so that calls above a limit cost no statements.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use api::error::Reason;
use sqlx::{query, query_scalar};
use time::{Duration, OffsetDateTime};

use crate::{
    Db, Error, Result, Tx, key,
    throttle::{KEYS_MAX, Throttle, network_of},
};

/// A limit of calls per minute for each key, by the generic cell rate algorithm (GCRA): a key has a
/// theoretical arrival time, which each admitted call moves by the interval between calls at the limit.
pub struct RateLimit {
    db: Db,
    name: &'static str,
    /// Calls per minute; 0 means no limit.
    count: u32,
    message: &'static str,
    /// Calls of this process.
    local: Throttle<String>,
}

impl RateLimit {
    /// Admits `count` calls per minute, and bursts of as many; 0 means no limit. `name`: tells the limits of
    /// a database apart. Refusals have `message`.
    pub fn per_minute(db: &Db, name: &'static str, count: u32, message: &'static str) -> Self {
        // One more than the limit, which the table decides about.
        let local = Throttle::per_minute(count, count.saturating_add(1), db.clock());
        Self { db: db.clone(), name, count, message, local }
    }

    /// Counts a call. Fails above the limit, with the time until a retry succeeds.
    pub async fn check(&self, key: &impl ToString) -> Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        let key = key.to_string();
        self.local.check(&key, self.message)?;
        let key = stored_key(self.name, &key);
        let interval = Duration::MINUTE / self.count;
        let now = self.db.now();
        // Calls that come together can be counted in another order than that of their times.
        let tolerance = interval / 10_u32;
        // Latest arrival time that is admitted.
        let latest: OffsetDateTime = now + interval * (self.count - 1) + tolerance;
        let admitted = query_scalar!(
            r#"insert into rate_limit as stored (key, count, until) values ($1, 0, $2::timestamptz + $3)
               on conflict (key) do update set until = greatest(stored.until, $2::timestamptz) + $3
               where stored.until <= $4
               returning true as "admitted!""#,
            &key[..],
            now,
            sqlx::postgres::types::PgInterval {
                months: 0,
                days: 0,
                microseconds: i64::try_from(interval.whole_microseconds()).unwrap_or(i64::MAX),
            },
            latest
        );
        if admitted.fetch_optional(self.db.pool()).await?.is_some() {
            return Ok(());
        }
        let until = query_scalar!("select until from rate_limit where key = $1", &key[..]);
        let until = until.fetch_optional(self.db.pool()).await?.unwrap_or(latest);
        Err(limited(Reason::RateLimited, self.message, until - latest))
    }
}

/// Number of failures after which a network is blocked.
const FAILURES_MAX: i32 = 10;

/// Duration of a block, from the last failure on.
const BLOCK_DURATION: Duration = Duration::minutes(15);

/// Blocks networks with many failed attempts, so that nobody guesses secrets (PL-13, IN-26). A block takes
/// effect on a replica with the next failure there.
pub struct FailureLimit {
    db: Db,
    name: &'static str,
    message: &'static str,
    /// Ends of the blocks that this process has noticed, by network.
    blocked: Mutex<HashMap<String, OffsetDateTime>>,
}

impl FailureLimit {
    /// Creates a limit that refuses blocked networks with `message`. `name`: see [`RateLimit::per_minute`].
    pub fn new(db: &Db, name: &'static str, message: &'static str) -> Self {
        Self { db: db.clone(), name, message, blocked: Mutex::default() }
    }

    /// Counts a failed attempt from an address.
    pub async fn record_failure(&self, address: &str) -> Result<()> {
        let network = network_of(address);
        let key = stored_key(self.name, &network);
        let now = self.db.now();
        let until = now + BLOCK_DURATION;
        let count = query_scalar!(
            "insert into rate_limit as stored (key, count, until) values ($1, 1, $3)
             on conflict (key) do update set
                 count = case when stored.until > $2 then stored.count + 1 else 1 end, until = $3
             returning count",
            &key[..],
            now,
            until
        );
        if count.fetch_one(self.db.pool()).await? >= FAILURES_MAX {
            let mut blocked = self.blocked.lock().unwrap_or_else(PoisonError::into_inner);
            if blocked.len() > KEYS_MAX {
                blocked.retain(|_, until| *until > now);
            }
            blocked.insert(network, until);
        }
        Ok(())
    }

    /// Fails if the network of an address is blocked.
    pub fn check(&self, address: &str) -> Result<()> {
        let blocked = self.blocked.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(until) = blocked.get(&network_of(address)) else { return Ok(()) };
        let remaining = *until - self.db.now();
        if remaining.is_negative() {
            return Ok(());
        }
        Err(limited(Reason::AddressBlocked, self.message, remaining))
    }
}

fn limited(reason: Reason, message: &str, retry_after: Duration) -> Error {
    let retry_after = retry_after.unsigned_abs();
    Error::Limited { reason, message: message.to_owned(), retry_after }
}

/// Key of a limit in the database: a hash, because keys contain e-mail and network addresses.
fn stored_key(name: &str, key: &str) -> key::Secret {
    key::hash(format!("{name} {key}").as_bytes())
}

/// Deletes the state of keys that may use their whole limit again. Returns how many.
pub async fn delete_expired(tx: &mut Tx) -> Result<u64> {
    let now = tx.now;
    // All organizations (no org_id): limits are those of accounts, keys and addresses.
    let deleted = query!("delete from rate_limit where until < $1", now).execute(tx.conn()).await?;
    Ok(deleted.rows_affected())
}
