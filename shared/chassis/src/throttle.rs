//! Rate limits (GCRA): so many at once, and so many a minute, by whatever they are counted. Kept in
//! memory: with several replicas each allows as much.

use std::{
    collections::HashMap,
    hash::Hash,
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use api::error::Reason;
use governor::{
    Quota, RateLimiter, clock::Clock as Ticks, middleware::NoOpMiddleware,
    state::keyed::HashMapStateStore,
};
use time::OffsetDateTime;

use crate::{Clock, Error, Result};

/// Above so many keys those that have recovered are forgotten.
const KEYS_MAX: usize = 10_000;

/// A limit for each key.
pub struct Throttle<K: Hash + Eq + Clone>(
    Option<RateLimiter<K, HashMapStateStore<K>, Clock, NoOpMiddleware<Duration>>>,
);

impl<K: Hash + Eq + Clone> Throttle<K> {
    /// So many at once, and as many a minute. 0 means no limit.
    pub fn per_minute(count: u32, clock: &Clock) -> Self {
        let limiter = |count| {
            let store = HashMapStateStore::default();
            RateLimiter::new(Quota::per_minute(count), store, clock.clone())
        };
        Self(NonZeroU32::new(count).map(limiter))
    }

    /// Counts one more, or refuses and tells when to come back.
    pub fn check(&self, key: &K, what: &'static str) -> Result<()> {
        let Some(limiter) = &self.0 else { return Ok(()) };
        if limiter.len() > KEYS_MAX {
            limiter.retain_recent();
        }
        let Err(until) = limiter.check_key(key) else { return Ok(()) };
        let retry_after = until.wait_time_from(Ticks::now(limiter.clock()));
        Err(Error::Limited { reason: Reason::RateLimited, message: what.to_owned(), retry_after })
    }
}

/// After so many wrong guesses a place is blocked.
const GUESSES_MAX: u32 = 10;

/// For so long, from the last wrong guess on.
const BLOCKED: time::Duration = time::Duration::minutes(15);

/// Blocks places from which somebody guesses secrets (PL-13, IN-26).
pub struct Guesses {
    clock: Clock,
    wrong: Mutex<HashMap<String, (u32, OffsetDateTime)>>,
    what: &'static str,
}

impl Guesses {
    /// Nobody has guessed yet. `what` tells those who are blocked why.
    pub fn new(clock: &Clock, what: &'static str) -> Self {
        Self { clock: clock.clone(), wrong: Mutex::default(), what }
    }

    /// Counts a wrong guess.
    pub fn wrong(&self, address: &str) {
        let now = Clock::now(&self.clock);
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if wrong.len() > KEYS_MAX {
            wrong.retain(|_, it| it.1 + BLOCKED > now);
        }
        let entry = wrong.entry(place(address)).or_insert((0, now));
        let count = if entry.1 + BLOCKED > now { entry.0 } else { 0 };
        *entry = (count.saturating_add(1), now);
    }

    /// Refuses a place that guesses.
    pub fn check(&self, address: &str) -> Result<()> {
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((count, last)) = wrong.get(&place(address)) else { return Ok(()) };
        let rest = *last + BLOCKED - Clock::now(&self.clock);
        if *count < GUESSES_MAX || rest.is_negative() {
            return Ok(());
        }
        let (reason, message) = (Reason::AddressBlocked, self.what.to_owned());
        Err(Error::Limited { reason, message, retry_after: rest.unsigned_abs() })
    }
}

impl Ticks for Clock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        let nanos = Clock::now(self).unix_timestamp_nanos();
        Duration::from_nanos(u64::try_from(nanos).unwrap_or_default())
    }
}

/// The network that a rate limit counts as one place: an IPv4 address, or the /64 of an IPv6 one.
pub fn place(address: &str) -> String {
    match address.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V6(it)) if it.to_ipv4_mapped().is_none() => {
            it.segments()[..4].iter().map(|it| format!("{it:x}:")).collect()
        }
        Ok(std::net::IpAddr::V6(it)) => it.to_canonical().to_string(),
        _ => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_gives_back_what_was_used() {
        let clock = Clock::default();
        let throttle = Throttle::per_minute(5, &clock);
        let passed = |count: usize| (0..count).filter(|_| throttle.check(&"a", "").is_ok()).count();
        assert_eq!(passed(8), 5);
        clock.advance(time::Duration::seconds(25));
        assert_eq!(passed(8), 2);
        assert!(throttle.check(&"b", "").is_ok());
        assert!(Throttle::per_minute(0, &clock).check(&"a", "").is_ok());
    }

    #[test]
    fn a_customer_of_many_addresses_is_one_place() {
        assert_eq!(place("2001:db8:1:2::9"), place("2001:db8:1:2:ffff::1"));
        assert_ne!(place("2001:db8:1:2::9"), place("2001:db8:1:3::9"));
        assert_eq!(place("::ffff:192.0.2.1"), "192.0.2.1");
    }
}
