//! Cache of snapshots: one per organization, at its newest known version, within a limit of memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use chassis::{Account, Db, OrgId, Result};
use identity_rules::{
    access::{freshness::Freshness, subject},
    snapshot::{AccessQuery, Snapshot, Status, Verdict},
    types::ConsistencyToken,
};
use moka::sync::Cache;
use time::OffsetDateTime;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use super::store;

/// Members and projects of an organization whose whole snapshot is loaded for one decision.
const LOADED_MAX: i64 = 2_000;

/// Organizations that wait for a load in the background. More are loaded by later calls.
const WAITING_MAX: usize = 64;

/// Number of locks over which the loads of organizations are spread.
const LOAD_LOCKS: usize = 64;

/// The newest known snapshots; clones share one cache.
#[derive(Clone)]
pub(crate) struct SnapshotCache {
    db: Db,
    cache: Cache<OrgId, Arc<CachedSnapshot>>,
    /// Snapshots of past versions, for the pages of one list.
    past: Cache<(OrgId, i64), Arc<Snapshot>>,
    /// One load per organization at a time; concurrent calls wait for it and use its result.
    load_locks: Arc<[Mutex<()>; LOAD_LOCKS]>,
    /// Organizations to load in the background.
    loads: mpsc::Sender<OrgId>,
    created_at: Instant,
}

struct CachedSnapshot {
    snapshot: Arc<Snapshot>,
    /// Time at which the snapshot was known to be the newest, in milliseconds since the cache was created.
    verified_at: AtomicU64,
}

impl SnapshotCache {
    /// Creates an empty cache of at most `bytes_max` bytes, and the queue for [`Self::load_in_background`].
    pub(crate) fn new(db: Db, bytes_max: u64) -> (Self, mpsc::Receiver<OrgId>) {
        let (loads, waiting) = mpsc::channel(WAITING_MAX);
        let weigher = |_: &OrgId, entry: &Arc<CachedSnapshot>| {
            u32::try_from(entry.snapshot.estimate_bytes()).unwrap_or(u32::MAX)
        };
        let cache = Cache::builder().max_capacity(bytes_max).weigher(weigher).build();
        let weigher = |_: &(OrgId, i64), snapshot: &Arc<Snapshot>| {
            u32::try_from(snapshot.estimate_bytes()).unwrap_or(u32::MAX)
        };
        let past = Cache::builder().max_capacity(bytes_max / 8).weigher(weigher).build();
        let load_locks = Arc::new(std::array::from_fn(|_| Mutex::default()));
        let cache = Self { db, cache, past, load_locks, loads, created_at: Instant::now() };
        (cache, waiting)
    }

    /// Loads the snapshots of large organizations about which decisions were made without them.
    pub(crate) async fn load_in_background(
        self,
        mut waiting: mpsc::Receiver<OrgId>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        while let Some(Some(org_id)) = stop.run_until_cancelled(waiting.recv()).await {
            if let Err(error) = self.get(org_id, Freshness::Newest(None), None).await {
                tracing::warn!(%org_id, %error, "the access snapshot was not loaded");
            }
        }
        Ok(())
    }

    /// Like [`Self::get`], for a decision about the caller. While the snapshot of a large organization is not
    /// cached, it is loaded in the background, and the part of it that the decision needs is returned, if the
    /// decision is to allow. A denial names remedies, which need the whole snapshot.
    pub(crate) async fn get_for_decision(
        &self,
        org_id: OrgId,
        freshness: Freshness,
        caller: &Account,
        query: &AccessQuery,
    ) -> Result<Option<Arc<Snapshot>>> {
        let is_cached = self.cache.contains_key(&org_id);
        if is_cached || !store::is_large(&self.db, org_id, LOADED_MAX).await? {
            return self.get(org_id, freshness, Some(caller)).await;
        }
        // Verifies the credential.
        if store::version_for(&self.db, org_id, caller).await?.is_none() {
            return Ok(None);
        }
        let _ = self.loads.try_send(org_id);
        let mut connection = self.db.pool().acquire().await?;
        let part =
            store::load_part(&mut connection, org_id, caller.user_id, query.project_id).await?;
        drop(connection);
        match part.filter(|it| it.verdict(subject(caller), query) == Verdict::Allowed) {
            Some(part) => Ok(Some(Arc::new(part))),
            None => self.get(org_id, freshness, Some(caller)).await,
        }
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

    /// Returns the snapshot at a time in the past; `None` if the organization did not exist then. `newest`: a
    /// snapshot of the organization that was read after that time. Facts of earlier versions than its own do
    /// not change any more, so they are cached.
    pub(crate) async fn get_past(
        &self,
        newest: &Snapshot,
        at: OffsetDateTime,
    ) -> Result<Option<Arc<Snapshot>>> {
        let org_id = newest.org_id;
        let Some(version) = store::version_at(&self.db, org_id, at).await? else { return Ok(None) };
        if version == newest.version {
            let mut snapshot = newest.clone();
            snapshot.status = Status::Active;
            return Ok(Some(Arc::new(snapshot)));
        }
        if let Some(snapshot) = self.past.get(&(org_id, version)) {
            return Ok(Some(snapshot));
        }
        let snapshot = Arc::new(store::load_past(&self.db, org_id, version).await?);
        if version < newest.version {
            self.past.insert((org_id, version), snapshot.clone());
        }
        Ok(Some(snapshot))
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
