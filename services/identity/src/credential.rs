//! Stored credentials, and their cache. Sessions and API keys have one type, because every call checks
//! either.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use chassis::Account;
use moka::sync::Cache;
use time::OffsetDateTime;
use uuid::Uuid;

/// Lifetime of a cached credential. A decision verifies it in the database unless the caller allows a state
/// of at most a second ago (G-06); everything else does not use the cache.
const CACHE_LIFETIME: Duration = Duration::from_secs(1);

/// Credentials in the cache at most; each takes less than 500 bytes.
const CACHE_ENTRIES_MAX: u64 = 50_000;

/// A session or an API key that has not been revoked, with the account that it authenticates. The secret of a
/// token must still be compared with `secret_hash`.
#[derive(Clone)]
pub(crate) struct StoredCredential {
    pub(crate) account: Account,
    pub(crate) secret_hash: Vec<u8>,
    /// Time before the credential was read from the database.
    pub(crate) verified_at: Instant,
    /// `None` if the credential does not expire.
    pub(crate) expires_at: Option<OffsetDateTime>,
    /// `None` if the credential was never used.
    pub(crate) last_used_at: Option<OffsetDateTime>,
    /// True if a use has been recorded since this copy was loaded.
    pub(crate) use_recorded: Arc<AtomicBool>,
}

impl StoredCredential {
    /// Returns true if the credential has expired at `now`.
    pub(crate) fn is_expired(&self, now: OffsetDateTime) -> bool {
        self.expires_at.is_some_and(|it| it <= now)
    }
}

/// Credentials that were loaded within the last second, by their id.
pub(crate) type CredentialCache = Cache<Uuid, StoredCredential>;

/// Returns an empty cache.
pub(crate) fn new_cache() -> CredentialCache {
    Cache::builder().max_capacity(CACHE_ENTRIES_MAX).time_to_live(CACHE_LIFETIME).build()
}
