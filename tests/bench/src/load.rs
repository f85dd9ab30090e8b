//! Closed-loop load: so many callers, each with one call in flight.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use tonic::transport::Channel;

/// Connections to the server.
const CHANNELS: usize = 4;

/// How long one measurement takes.
const TIME: Duration = Duration::from_secs(4);

/// Some connections of their own.
pub(crate) async fn channels(address: std::net::SocketAddr) -> Result<Vec<Channel>> {
    let mut channels = vec![];
    for _ in 0..CHANNELS {
        channels.push(
            Channel::from_shared(format!("http://{address}"))?.tcp_nodelay(true).connect().await?,
        );
    }
    Ok(channels)
}

/// Calls per second of so many callers. Warms up first.
pub(crate) async fn rate<F>(
    callers: usize,
    call: impl Fn(usize, u64) -> F + Clone + Send + 'static,
) -> Result<f64>
where
    F: Future<Output = Result<()>> + Send,
{
    let numbers = Arc::new(AtomicU64::new(0));
    measure(callers, Duration::from_secs(1), numbers.clone(), call.clone()).await?;
    measure(callers, TIME, numbers, call).await
}

async fn measure<F>(
    callers: usize,
    time: Duration,
    numbers: Arc<AtomicU64>,
    call: impl Fn(usize, u64) -> F + Clone + Send + 'static,
) -> Result<f64>
where
    F: Future<Output = Result<()>> + Send,
{
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for caller in 0..callers {
        let (call, numbers) = (call.clone(), numbers.clone());
        tasks.spawn(async move {
            let mut calls = 0_u32;
            while start.elapsed() < time {
                call(caller, numbers.fetch_add(1, Ordering::Relaxed)).await?;
                calls += 1;
            }
            anyhow::Ok(calls)
        });
    }
    let mut calls = 0;
    for task in tasks.join_all().await {
        calls += task?;
    }
    Ok(f64::from(calls) / start.elapsed().as_secs_f64())
}
