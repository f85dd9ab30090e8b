//! Snapshots of organizations, remembered: one for each, at its newest known version, within a bound of
//! memory. A snapshot is used only as far as its caller allows it to be old.

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
use crate::{organization::wire::parse_consistency_token, snapshot::Snapshot};

/// No answer rests on facts that were read longer ago than this (G-06).
const AGE_MAX: Duration = Duration::from_secs(1);

/// How many loads of different organizations do not wait for each other.
const LANES: usize = 64;

/// How old facts may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Of the newest version, which knows of this one if one is given.
    Newest(Option<(OrgId, i64)>),
    /// Of this version or a newer one, in its organization.
    AtLeast((OrgId, i64)),
    /// Read so long ago at most.
    Within(Duration),
}

impl Freshness {
    /// The newest version, which must know of the change that a token is of.
    pub(crate) fn newest(token: Option<&str>) -> Result<Self> {
        Ok(Self::Newest(token.map(version).transpose()?))
    }

    /// A version that knows of the change that a token is of.
    pub(crate) fn at_least(token: &str) -> Result<Self> {
        Ok(Self::AtLeast(version(token)?))
    }

    /// Fails if these facts lack the change that the caller's token is of. Only for callers who may know of
    /// the organization: a forged token would tell others whether it exists.
    pub(super) fn check(self, facts: &Snapshot) -> Result<()> {
        match self {
            Self::Newest(Some((of, wanted))) | Self::AtLeast((of, wanted))
                if of == facts.org_id && wanted > facts.version =>
            {
                Err(ahead())
            }
            _ => Ok(()),
        }
    }
}

fn version(token: &str) -> Result<(OrgId, i64)> {
    let token = parse_consistency_token(token);
    token.ok_or_else(|| Error::invalid("consistency_token", "is no consistency token"))
}

/// Snapshots of organizations.
#[derive(Clone)]
pub(crate) struct Snapshots {
    db: Db,
    cache: Cache<OrgId, Arc<Entry>>,
    /// One load of an organization at a time; the others wait for it and use it.
    lanes: Arc<[Mutex<()>; LANES]>,
    born: Instant,
}

struct Entry {
    snapshot: Arc<Snapshot>,
    /// Milliseconds from `born` to the moment before the last question whether it is the newest.
    verified: AtomicU64,
}

impl Snapshots {
    /// An empty memory of at most so many bytes.
    pub(crate) fn new(db: Db, bytes_max: u64) -> Self {
        let weight =
            |_: &OrgId, it: &Arc<Entry>| u32::try_from(it.snapshot.weight()).unwrap_or(u32::MAX);
        let cache = Cache::builder().max_capacity(bytes_max).weigher(weight).build();
        let lanes = Arc::new(std::array::from_fn(|_| Mutex::default()));
        Self { db, cache, lanes, born: Instant::now() }
    }

    /// The facts about an organization; `None` if there is no such organization. Whether they have the change
    /// of the caller's token is checked by [`Freshness::check`].
    pub(crate) async fn get(
        &self,
        org_id: OrgId,
        freshness: Freshness,
    ) -> Result<Option<Arc<Snapshot>>> {
        let started = self.elapsed();
        if let Some(entry) = self.remembered(org_id, freshness, started) {
            return Ok(Some(entry));
        }
        let newest = store::version(&self.db, org_id).await?;
        let Some(newest) = newest else { return Ok(None) };
        self.at(org_id, newest, started).await
    }

    /// The facts about several organizations, in their order; their versions are read together.
    pub(crate) async fn get_all(
        &self,
        org_ids: &[OrgId],
        freshness: Freshness,
    ) -> Result<Vec<Option<Arc<Snapshot>>>> {
        let started = self.elapsed();
        let remembered = |it: &OrgId| self.remembered(*it, freshness, started);
        let found: Vec<_> = org_ids.iter().map(remembered).collect();
        if found.iter().all(Option::is_some) {
            return Ok(found);
        }
        let versions = store::versions(&self.db, org_ids).await?;
        let mut all = vec![];
        for org_id in org_ids {
            all.push(match versions.get(org_id) {
                Some(newest) => self.at(*org_id, *newest, started).await?,
                None => None,
            });
        }
        Ok(all)
    }

    /// What is remembered, if it is good enough without a question to the database.
    fn remembered(&self, org_id: OrgId, freshness: Freshness, now: u64) -> Option<Arc<Snapshot>> {
        let within = match freshness {
            Freshness::Newest(_) => return None,
            Freshness::AtLeast(_) => AGE_MAX,
            Freshness::Within(age) => age.min(AGE_MAX),
        };
        let entry = self.cache.get(&org_id)?;
        let age = Duration::from_millis(now.saturating_sub(entry.verified.load(Ordering::Acquire)));
        let known = match freshness {
            Freshness::AtLeast((of, version)) => of != org_id || entry.snapshot.version >= version,
            _ => true,
        };
        (known && age < within).then(|| entry.snapshot.clone())
    }

    /// The facts of the version that was the newest after `started`, or of a newer one.
    async fn at(&self, org_id: OrgId, newest: i64, started: u64) -> Result<Option<Arc<Snapshot>>> {
        if let Some(entry) = self.cache.get(&org_id).filter(|it| it.snapshot.version >= newest) {
            entry.verified.fetch_max(started, Ordering::AcqRel);
            return Ok(Some(entry.snapshot.clone()));
        }
        let _lane = self.lanes[org_id.0.as_u128() as usize % LANES].lock().await;
        if let Some(entry) = self.cache.get(&org_id).filter(|it| it.snapshot.version >= newest) {
            entry.verified.fetch_max(started, Ordering::AcqRel);
            return Ok(Some(entry.snapshot.clone()));
        }
        let started = self.elapsed();
        let mut connection = self.db.pool().acquire().await?;
        let Some(snapshot) = store::load(&mut connection, org_id).await? else { return Ok(None) };
        let snapshot = Arc::new(snapshot);
        let verified = AtomicU64::new(started);
        self.cache.insert(org_id, Arc::new(Entry { snapshot: snapshot.clone(), verified }));
        Ok(Some(snapshot))
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

fn ahead() -> Error {
    Error::Refused {
        code: Code::Unavailable,
        reason: Reason::ConsistencyTokenAhead,
        message: "the consistency token is of a change that this database does not know; it lags, or was \
                  restored from an older backup"
            .to_owned(),
        metadata: vec![],
    }
}
