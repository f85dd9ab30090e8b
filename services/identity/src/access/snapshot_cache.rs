//! Cache of snapshots: one per organization, at its newest known version, within a limit of memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use api::error::Reason;
use chassis::{Code, Db, Error, OrgId, Result};
use moka::sync::Cache;
use tokio::sync::Mutex;

use super::store;
use crate::{snapshot::Snapshot, types::ConsistencyToken};

/// Longest time since a snapshot was known to be the newest, for a decision that may use a cached one (G-06).
const AGE_MAX: Duration = Duration::from_secs(1);

/// Number of locks over which the loads of organizations are spread.
const LOAD_LOCKS: usize = 64;

/// The age that a snapshot may have for a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// The newest version; it must include the version of the token, if there is one.
    Newest(Option<ConsistencyToken>),
    /// The version of the token or a newer one, and no older than [`AGE_MAX`].
    AtLeast(ConsistencyToken),
    /// Known to be the newest version at most this long ago.
    MaxAge(Duration),
}

impl Freshness {
    /// Requires the newest version, which must include the version of a token.
    pub(crate) fn newest(token: Option<&str>) -> Result<Self> {
        Ok(Self::Newest(token.map(parse_token).transpose()?))
    }

    /// Requires the version of a token or a newer one.
    pub(crate) fn at_least(token: &str) -> Result<Self> {
        Ok(Self::AtLeast(parse_token(token)?))
    }

    /// Fails if a snapshot is older than the version of the caller's token. Call it only for callers who
    /// may know the organization: a forged token would reveal to others that it exists.
    pub(super) fn require_version(self, snapshot: &Snapshot) -> Result<()> {
        let (Self::Newest(Some(token)) | Self::AtLeast(token)) = self else { return Ok(()) };
        if token.org_id == snapshot.org_id && token.access_version > snapshot.version {
            return Err(token_ahead());
        }
        Ok(())
    }
}

fn parse_token(text: &str) -> Result<ConsistencyToken> {
    let invalid = || {
        let description = "must be a consistency token from an earlier response";
        Error::invalid("consistency_token", description)
    };
    ConsistencyToken::parse(text).ok_or_else(invalid)
}

/// The newest known snapshots; clones share one cache.
#[derive(Clone)]
pub(crate) struct SnapshotCache {
    db: Db,
    cache: Cache<OrgId, Arc<CachedSnapshot>>,
    /// One load per organization at a time; concurrent calls wait for it and use its result.
    load_locks: Arc<[Mutex<()>; LOAD_LOCKS]>,
    created_at: Instant,
}

struct CachedSnapshot {
    snapshot: Arc<Snapshot>,
    /// Time at which the snapshot was known to be the newest, in milliseconds since the cache was created.
    verified_at: AtomicU64,
}

impl SnapshotCache {
    /// Creates an empty cache of at most `bytes_max` bytes.
    pub(crate) fn new(db: Db, bytes_max: u64) -> Self {
        let weigher = |_: &OrgId, entry: &Arc<CachedSnapshot>| {
            u32::try_from(entry.snapshot.estimate_bytes()).unwrap_or(u32::MAX)
        };
        let cache = Cache::builder().max_capacity(bytes_max).weigher(weigher).build();
        let load_locks = Arc::new(std::array::from_fn(|_| Mutex::default()));
        Self { db, cache, load_locks, created_at: Instant::now() }
    }

    /// Returns the snapshot of an organization; `None` if it does not exist. The caller must also call
    /// [`Freshness::require_version`].
    pub(crate) async fn get(
        &self,
        org_id: OrgId,
        freshness: Freshness,
    ) -> Result<Option<Arc<Snapshot>>> {
        let called_at = self.elapsed_ms();
        if let Some(snapshot) = self.find_cached(org_id, freshness, called_at) {
            return Ok(Some(snapshot));
        }
        let Some(newest) = store::version(&self.db, org_id).await? else { return Ok(None) };
        self.get_version(org_id, newest, called_at).await
    }

    /// Returns the snapshots of several organizations, in their order. Their versions are read in one
    /// statement.
    pub(crate) async fn get_all(
        &self,
        org_ids: &[OrgId],
        freshness: Freshness,
    ) -> Result<Vec<Option<Arc<Snapshot>>>> {
        let called_at = self.elapsed_ms();
        let find_cached = |org_id: &OrgId| self.find_cached(*org_id, freshness, called_at);
        let cached: Vec<_> = org_ids.iter().map(find_cached).collect();
        if cached.iter().all(Option::is_some) {
            return Ok(cached);
        }
        let versions = store::versions(&self.db, org_ids).await?;
        let mut snapshots = vec![];
        for org_id in org_ids {
            snapshots.push(match versions.get(org_id) {
                Some(newest) => self.get_version(*org_id, *newest, called_at).await?,
                None => None,
            });
        }
        Ok(snapshots)
    }

    /// Returns the cached snapshot, if it is fresh enough without a read of the newest version.
    fn find_cached(&self, org_id: OrgId, freshness: Freshness, now: u64) -> Option<Arc<Snapshot>> {
        let age_max = match freshness {
            Freshness::Newest(_) => return None,
            Freshness::AtLeast(_) => AGE_MAX,
            Freshness::MaxAge(age) => age.min(AGE_MAX),
        };
        let entry = self.cache.get(&org_id)?;
        let verified_at = entry.verified_at.load(Ordering::Acquire);
        let age = Duration::from_millis(now.saturating_sub(verified_at));
        let has_version = match freshness {
            Freshness::AtLeast(token) => {
                token.org_id != org_id || entry.snapshot.version >= token.access_version
            }
            _ => true,
        };
        (has_version && age < age_max).then(|| entry.snapshot.clone())
    }

    /// Returns the snapshot of a version or of a newer one, from the cache or the database. `newest` was
    /// the newest version at some time after `called_at`.
    async fn get_version(
        &self,
        org_id: OrgId,
        newest: i64,
        called_at: u64,
    ) -> Result<Option<Arc<Snapshot>>> {
        if let Some(snapshot) = self.verify_cached(org_id, newest, called_at) {
            return Ok(Some(snapshot));
        }
        let _lock = self.load_locks[org_id.0.as_u128() as usize % LOAD_LOCKS].lock().await;
        if let Some(snapshot) = self.verify_cached(org_id, newest, called_at) {
            return Ok(Some(snapshot));
        }
        let verified_at = AtomicU64::new(self.elapsed_ms());
        let mut connection = self.db.pool().acquire().await?;
        let Some(snapshot) = store::load(&mut connection, org_id).await? else { return Ok(None) };
        let snapshot = Arc::new(snapshot);
        let entry = CachedSnapshot { snapshot: snapshot.clone(), verified_at };
        self.cache.insert(org_id, Arc::new(entry));
        Ok(Some(snapshot))
    }

    /// Returns the cached snapshot if it has at least the newest version, and records that it is still the
    /// newest.
    fn verify_cached(&self, org_id: OrgId, newest: i64, called_at: u64) -> Option<Arc<Snapshot>> {
        let entry = self.cache.get(&org_id).filter(|it| it.snapshot.version >= newest)?;
        entry.verified_at.fetch_max(called_at, Ordering::AcqRel);
        Some(entry.snapshot.clone())
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.created_at.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

fn token_ahead() -> Error {
    Error::Refused {
        code: Code::Unavailable,
        reason: Reason::ConsistencyTokenAhead,
        message:
            "the consistency token is newer than this database, which lags or was restored from an \
                  older backup; retry, or omit the token"
                .to_owned(),
        metadata: vec![],
    }
}
