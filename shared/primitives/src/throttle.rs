//! Limits of calls per minute by key (GCRA), of one process.

use std::{hash::Hash, num::NonZeroU32, time::Duration};

use api::error::Reason;
use governor::{
    Quota, RateLimiter, clock::Clock as GovernorClock, middleware::NoOpMiddleware,
    state::keyed::HashMapStateStore,
};

use crate::{Clock, Error, Result};

/// Number of keys above which the entries of keys that may use their whole limit again are dropped.
pub const KEYS_MAX: usize = 10_000;

/// A limit of calls per minute for each key.
pub struct Throttle<K: Hash + Eq + Clone>(
    Option<RateLimiter<K, HashMapStateStore<K>, Clock, NoOpMiddleware<Duration>>>,
);

impl<K: Hash + Eq + Clone> Throttle<K> {
    /// Admits `count` calls per minute, and bursts of `burst` calls; 0 means no limit.
    pub fn per_minute(count: u32, burst: u32, clock: &Clock) -> Self {
        let limiter = |(count, burst)| {
            let quota = Quota::per_minute(count).allow_burst(burst);
            RateLimiter::new(quota, HashMapStateStore::default(), clock.clone())
        };
        Self(NonZeroU32::new(count).zip(NonZeroU32::new(burst)).map(limiter))
    }

    /// Counts a call. Above the limit fails with `message` and the time until a retry succeeds.
    pub fn check(&self, key: &K, message: &'static str) -> Result<()> {
        let Some(limiter) = &self.0 else { return Ok(()) };
        if limiter.len() > KEYS_MAX {
            limiter.retain_recent();
        }
        let Err(until) = limiter.check_key(key) else { return Ok(()) };
        let retry_after = until.wait_time_from(GovernorClock::now(limiter.clock()));
        Err(Error::Limited {
            reason: Reason::RateLimited,
            message: message.to_owned(),
            retry_after,
        })
    }
}

impl GovernorClock for Clock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        let nanos = Clock::now(self).unix_timestamp_nanos();
        Duration::from_nanos(u64::try_from(nanos).unwrap_or_default())
    }
}

/// Returns the network that a limit counts as one client: an IPv4 address, or the /64 of an IPv6 address,
/// which is what a provider assigns to one customer.
pub fn network_of(address: &str) -> String {
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
    fn the_limit_becomes_available_again_continuously() {
        let clock = Clock::default();
        let throttle = Throttle::per_minute(5, 5, &clock);
        let admitted =
            |count: usize| (0..count).filter(|_| throttle.check(&"a", "").is_ok()).count();
        assert_eq!(admitted(8), 5);
        clock.advance(time::Duration::seconds(25));
        assert_eq!(admitted(8), 2, "one call is admitted again every 12 s");
        assert!(throttle.check(&"b", "").is_ok(), "each key has its own limit");
        assert!(Throttle::per_minute(0, 1, &clock).check(&"a", "").is_ok(), "0 is no limit");
    }

    #[test]
    fn the_addresses_of_an_ipv6_customer_are_one_network() {
        assert_eq!(network_of("2001:db8:1:2::9"), network_of("2001:db8:1:2:ffff::1"));
        assert_ne!(network_of("2001:db8:1:2::9"), network_of("2001:db8:1:3::9"));
        assert_eq!(network_of("::ffff:192.0.2.1"), "192.0.2.1");
    }
}
