//! Closed-loop load generator: a number of callers, each with one call in flight.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use tonic::transport::Channel;

/// Number of connections to the server.
const CHANNELS: usize = 4;

/// Duration of one measurement.
const DURATION: Duration = Duration::from_secs(4);

/// Opens the connections.
pub(crate) async fn channels(address: std::net::SocketAddr) -> Result<Vec<Channel>> {
    let mut channels = vec![];
    for _ in 0..CHANNELS {
        channels.push(
            Channel::from_shared(format!("http://{address}"))?.tcp_nodelay(true).connect().await?,
        );
    }
    Ok(channels)
}

/// Measures the calls per second of a number of callers, after a second of warm-up. `call` gets the index of
/// the caller and a unique number of the call.
pub(crate) async fn rate<F>(
    callers: usize,
    call: impl Fn(usize, u64) -> F + Clone + Send + 'static,
) -> Result<f64>
where
    F: Future<Output = Result<()>> + Send,
{
    let numbers = Arc::new(AtomicU64::new(0));
    measure(callers, Duration::from_secs(1), numbers.clone(), call.clone()).await?;
    measure(callers, DURATION, numbers, call).await
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
        let call = call.clone();
        let numbers = numbers.clone();
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
