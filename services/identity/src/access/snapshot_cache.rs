//! Cache of snapshots: one per organization, at its newest known version, within a limit of memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use chassis::{Account, Db, OrgId, Result};
use identity_rules::{access::freshness::Freshness, snapshot::Snapshot, types::ConsistencyToken};
use moka::sync::Cache;
use tokio::sync::Mutex;

use super::store;

/// Number of locks over which the loads of organizations are spread.
const LOAD_LOCKS: usize = 64;

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

    /// Returns the snapshot of an organization; `None` if it does not exist. The statement that reads the
    /// newest version verifies the credential of `caller`. The caller must also call
    /// [`Freshness::require_version`].
    pub(crate) async fn get(
        &self,
        org_id: OrgId,
        freshness: Freshness,
        caller: Option<&Account>,
    ) -> Result<Option<Arc<Snapshot>>> {
        let called_at = self.elapsed_ms();
        if let Some(snapshot) = self.find_cached(org_id, freshness, called_at) {
            return Ok(Some(snapshot));
        }
        let newest = match caller {
            Some(caller) => store::version_for(&self.db, org_id, caller).await?,
            None => store::version(&self.db, org_id).await?,
        };
        let Some(newest) = newest else { return Ok(None) };
        self.get_version(org_id, newest, called_at).await
    }

    /// Returns the snapshot of a version that was the newest during this call, or of a newer one, without a
    /// read of the newest version if it is cached.
    pub(crate) async fn get_decided(
        &self,
        token: ConsistencyToken,
    ) -> Result<Option<Arc<Snapshot>>> {
        let cached = self.cache.get(&token.org_id).map(|it| it.snapshot.clone());
        match cached.filter(|it| it.version >= token.access_version) {
            Some(snapshot) => Ok(Some(snapshot)),
            None => self.get(token.org_id, Freshness::Newest(None), None).await,
        }
    }

    /// Returns the snapshots of several organizations, in their order. The statement that reads their
    /// versions verifies the credential of `caller`.
    pub(crate) async fn get_all(
        &self,
        org_ids: &[OrgId],
        freshness: Freshness,
        caller: &Account,
    ) -> Result<Vec<Option<Arc<Snapshot>>>> {
        let called_at = self.elapsed_ms();
        let find_cached = |org_id: &OrgId| self.find_cached(*org_id, freshness, called_at);
        let cached: Vec<_> = org_ids.iter().map(find_cached).collect();
        if cached.iter().all(Option::is_some) {
            return Ok(cached);
        }
        let versions = store::versions_for(&self.db, org_ids, caller).await?;
        let mut snapshots = vec![];
        for org_id in org_ids {
            snapshots.push(match versions.get(org_id) {
                Some(newest) => self.get_version(*org_id, *newest, called_at).await?,
                None => None,
            });
        }
        Ok(snapshots)
    }

    /// Returns the cached snapshot, if it is fresh enough without a read of the newest version. `now` is
    /// [`Self::elapsed_ms`].
    fn find_cached(&self, org_id: OrgId, freshness: Freshness, now: u64) -> Option<Arc<Snapshot>> {
        let entry = self.cache.get(&org_id)?;
        let verified_at = entry.verified_at.load(Ordering::Acquire);
        let age = Duration::from_millis(now.saturating_sub(verified_at));
        let is_fresh = freshness.accepts(org_id, entry.snapshot.version, age);
        is_fresh.then(|| entry.snapshot.clone())
    }

    /// Returns the snapshot of a version or of a newer one, from the cache or the database. `newest` was read
    /// from the database after `called_at` ([`Self::elapsed_ms`]).
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
        let snapshot = match self.cache.get(&org_id) {
            Some(older) => store::update(&mut connection, &older.snapshot).await?,
            None => store::load(&mut connection, org_id).await?,
        };
        let Some(snapshot) = snapshot.map(Arc::new) else { return Ok(None) };
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

    /// Returns the time since the cache was created, in milliseconds.
    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.created_at.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
