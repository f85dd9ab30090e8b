//! Health of a starting program: its health check passes, and the program itself listens on its port.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, bail};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::time::Instant;

use super::{
    http, launch::Launch, listener, log::ProgramLog, process_table::ProcessTable,
    process_tree::ProcessTree, sandbox::Sandboxed,
};

/// Pause between two health checks while a program starts.
const HEALTH_INTERVAL: Duration = Duration::from_millis(25);

/// Time after which a second check is sent while the first one has no response: a program may lose requests
/// that it gets before it is ready.
const OVERLAP_INTERVAL: Duration = Duration::from_secs(2);

/// Maximum number of checks that wait for a response at the same time.
const CHECKS_MAX: usize = 4;

/// Longest wait for the response to one check of a running program.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// Result of the checks so far, for the error message.
#[derive(Clone, Copy)]
enum LastResult {
    NoResponse,
    Status(u16),
    /// A process outside of the sandbox has the port.
    ForeignListener,
}

/// Waits until a program is healthy. Fails if it ends before, or if it is not healthy within its time-out;
/// then it is stopped. A response counts only if the program has the listening socket: another program of
/// this machine may have the port.
pub(super) async fn wait_until_healthy(
    log: &ProgramLog,
    launch: &Launch,
    address: SocketAddr,
    sandboxed: &mut Sandboxed,
) -> Result<()> {
    let deadline = Instant::now() + launch.timeout;
    let mut last_result = LastResult::NoResponse;
    let mut checks = FuturesUnordered::new();
    let mut sent_at = Instant::now();
    loop {
        if let Some(status) = sandboxed.child.try_wait()? {
            let output = log.quote(&launch.secrets());
            bail!("the program ended before it was healthy ({status}); {output}");
        }
        let is_overdue = sent_at.elapsed() > OVERLAP_INTERVAL && checks.len() < CHECKS_MAX;
        if checks.is_empty() || is_overdue {
            sent_at = Instant::now();
            checks.push(http::get_status(address, &launch.health, deadline - sent_at));
        }
        tokio::select! {
            Some(status) = checks.next() => match status {
                Some(status) if !http::is_healthy(status) => {
                    last_result = LastResult::Status(status);
                }
                Some(_) => {
                    let table = ProcessTable::read();
                    if listener::belongs_to(address, &sandboxed.process, &table).await {
                        return Ok(());
                    }
                    last_result = LastResult::ForeignListener;
                }
                None => {}
            },
            () = tokio::time::sleep(HEALTH_INTERVAL) => {}
        }
        if Instant::now() > deadline {
            break;
        }
        tokio::time::sleep(HEALTH_INTERVAL).await;
    }
    sandboxed.process.stop().await;
    let output = log.quote(&launch.secrets());
    match last_result {
        LastResult::NoResponse => bail!("no HTTP response on $HOST:$PORT ({address}); {output}"),
        LastResult::Status(status) => {
            bail!("health check failed with HTTP status {status}; {output}")
        }
        LastResult::ForeignListener => bail!(
            "the program does not listen on $HOST:$PORT ({address}), another program does; {output}"
        ),
    }
}

/// Returns the HTTP status of a running program; `None` if there is no response within two seconds, or if
/// another program has its port.
pub(super) async fn status(
    address: SocketAddr,
    path: &str,
    process: &ProcessTree,
    table: &ProcessTable,
) -> Option<u16> {
    let status = http::get_status(address, path, STATUS_TIMEOUT).await?;
    listener::belongs_to(address, process, table).await.then_some(status)
}
