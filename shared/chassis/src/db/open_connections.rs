//! Open connections: their number, and the closing of surplus ones. A pool uses its idle connections in turn,
//! so after a burst none of them is idle for long, and a time-out of idle connections would close none.

use std::time::Duration;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::Db;

/// Not a multiple of the jobs' intervals: their steps begin at the same time, and samples of that moment
/// alone would count each job's connection.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(3_700);

/// Number of samples after which connections are closed: those that were not needed for a minute.
const SAMPLES: u32 = 16;

/// Open connections of a service.
#[derive(Clone, Copy, Debug, Default)]
pub struct Connections {
    /// Connections that run a statement or have an open transaction.
    pub used: u64,
    /// Connections that wait for work.
    pub idle: u64,
}

/// Connections of a pool that were in use lately.
struct Usage {
    pool: PgPool,
    /// Largest number of used connections among the samples.
    used_max: usize,
    samples: u32,
}

impl Usage {
    fn new(pool: PgPool) -> Self {
        Self { pool, used_max: 0, samples: 0 }
    }

    /// Counts the used connections, and after the last sample closes as many as were never used at the same
    /// time. One stays open.
    async fn sample(&mut self) {
        let size = usize::try_from(self.pool.size()).unwrap_or(usize::MAX);
        self.used_max = self.used_max.max(size.saturating_sub(self.pool.num_idle()));
        self.samples += 1;
        if self.samples < SAMPLES {
            return;
        }
        for _ in self.used_max.max(1)..size {
            let Some(connection) = self.pool.try_acquire() else { break };
            // A connection that cannot be closed properly is closed, too.
            let _ = connection.close().await;
        }
        *self = Self::new(self.pool.clone());
    }
}

impl Db {
    /// Counts the open connections, for metrics. None are open before the first use.
    pub fn connections(&self) -> Connections {
        let Some(pools) = self.pools.used() else { return Connections::default() };
        let idle = pools.reads.num_idle() + pools.writes.num_idle();
        let open = u64::from(pools.reads.size()) + u64::from(pools.writes.size());
        let idle = u64::try_from(idle).unwrap_or(u64::MAX).min(open);
        Connections { used: open - idle, idle }
    }

    /// Closes every connection.
    pub async fn close(&self) {
        let pools = self.pools.get();
        pools.reads.close().await;
        pools.writes.close().await;
    }

    /// Closes connections that were not needed for a minute, until `stop`.
    pub async fn close_surplus_connections(self, stop: CancellationToken) {
        let pools = self.pools.get();
        let mut usages = [&pools.reads, &pools.writes].map(|it| Usage::new(it.clone()));
        while stop.run_until_cancelled(tokio::time::sleep(SAMPLE_INTERVAL)).await.is_some() {
            for usage in &mut usages {
                usage.sample().await;
            }
        }
    }
}
