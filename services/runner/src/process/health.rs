//! Health of programs: the health check passes, and the program itself listens on its port.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Result, bail};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::{
    http,
    launch::Launch,
    listener,
    log::{LogWriter, ProgramLog, quote_output},
    process_table::ProcessTable,
    process_tree::ProcessTree,
    sandbox::Sandboxed,
};
use crate::{docker::Docker, secrets::Secrets};

/// Pause between two health checks while a program that starts does not respond.
const HEALTH_INTERVAL: Duration = Duration::from_millis(25);

/// Pause after the first response that is not healthy. It doubles with each further one, up to
/// [`UNHEALTHY_PAUSE_MAX`], because many programs log each request; a program serves by so much later than it
/// could.
const UNHEALTHY_PAUSE: Duration = Duration::from_millis(100);

const UNHEALTHY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Time after which a second check is sent while the first one has no response: a program may lose requests
/// that it gets before it is ready.
const OVERLAP_INTERVAL: Duration = Duration::from_secs(2);

/// Maximum number of checks that wait for a response at the same time.
const CHECKS_MAX: usize = 4;

/// Time for which the connection of a check stays open after the time-out of a start: programs log an error
/// if it is closed, so their output is quoted before.
const QUOTE_TIME: Duration = Duration::from_secs(5);

/// Longest wait of a report for the response to a check of a running program.
const REPORT_WAIT: Duration = Duration::from_millis(200);

/// Longest wait for the response to a check of a running program, unless its start has a shorter time-out.
const RESPONSE_TIMEOUT_MAX: Duration = Duration::from_secs(10);

/// Result of the checks so far, for the error message.
#[derive(Clone, Copy)]
enum LastResult {
    NoResponse,
    Status(u16),
    /// A process outside of the sandbox has the port.
    ForeignListener,
}

/// A program that was started, and is not yet known to be healthy.
pub(super) enum StartingProgram<'a> {
    Sandbox { sandboxed: &'a mut Sandboxed, log: &'a ProgramLog, writer: LogWriter },
    Container { docker: &'a Docker, process: &'a ProcessTree },
}

impl StartingProgram<'_> {
    fn process(&self) -> &ProcessTree {
        match self {
            Self::Sandbox { sandboxed, .. } => &sandboxed.process,
            Self::Container { process, .. } => process,
        }
    }

    /// Returns the exit status of the main program, as text; `None` while it runs.
    async fn exit_status(&mut self) -> Result<Option<String>> {
        match self {
            Self::Sandbox { sandboxed, .. } => {
                Ok(sandboxed.child.try_wait()?.map(|it| it.to_string()))
            }
            Self::Container { process, .. } if process.is_alive() => Ok(None),
            Self::Container { docker, process } => {
                let Some(container) = process.container() else { return Ok(None) };
                let code = docker.wait_for_end(&container.id).await?;
                Ok(Some(format!("exit status: {code}")))
            }
        }
    }

    /// Waits until the output of a program that has ended is written.
    async fn finish_output(&mut self) {
        if let Self::Sandbox { writer, .. } = self {
            writer.finish().await;
        }
    }

    async fn quote(&self, secrets: &Secrets) -> String {
        match self {
            Self::Sandbox { log, .. } => log.quote(secrets),
            Self::Container { docker, process } => {
                let id = process.container().map(|it| &*it.id).unwrap_or_default();
                quote_output(&docker.last_output(id).await, secrets)
            }
        }
    }
}

/// Waits until a program is healthy. Fails if it ends before, or if it is not healthy within its time-out;
/// then it is stopped. A response counts only if the program has the listening socket: another program of
/// this machine may have the port.
pub(super) async fn wait_until_healthy(
    launch: &Launch,
    address: SocketAddr,
    mut program: StartingProgram<'_>,
) -> Result<()> {
    let deadline = Instant::now() + launch.timeout;
    let mut last_result = LastResult::NoResponse;
    let mut checks = FuturesUnordered::new();
    let mut sent_at = Instant::now();
    let mut next_at = sent_at;
    let mut pause = UNHEALTHY_PAUSE;
    loop {
        if let Some(status) = program.exit_status().await? {
            program.finish_output().await;
            let output = program.quote(&launch.secrets()).await;
            bail!("the program ended before it was healthy ({status}); {output}");
        }
        let is_overdue = sent_at.elapsed() > OVERLAP_INTERVAL && checks.len() < CHECKS_MAX;
        if (checks.is_empty() || is_overdue) && Instant::now() >= next_at {
            sent_at = Instant::now();
            let timeout = deadline + QUOTE_TIME - sent_at;
            checks.push(http::get_status(address, &launch.health, timeout));
        }
        tokio::select! {
            Some(Some(status)) = checks.next() => {
                if !http::is_healthy(status) {
                    last_result = LastResult::Status(status);
                } else if listener::belongs_to(address, program.process(), &ProcessTable::read()).await {
                    return Ok(());
                } else {
                    last_result = LastResult::ForeignListener;
                }
                next_at = Instant::now() + pause;
                pause = (pause * 2).min(UNHEALTHY_PAUSE_MAX);
            }
            () = tokio::time::sleep(HEALTH_INTERVAL) => {}
        }
        if Instant::now() > deadline {
            break;
        }
        tokio::time::sleep(HEALTH_INTERVAL).await;
    }
    // Quoted before the program writes that it was stopped, or that a connection was closed.
    let output = program.quote(&launch.secrets()).await;
    drop(checks);
    program.process().stop().await;
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

/// Health checks of running programs, one at a time for each environment. A check that takes longer than a
/// report may wait goes on, so that slow programs do not delay the reports of others.
#[derive(Default)]
pub(super) struct HealthChecks(Mutex<HashMap<Uuid, Check>>);

struct Check {
    address: SocketAddr,
    /// Result of the last completed check.
    was_healthy: bool,
    /// The check that waits for its response.
    pending: Option<AbortOnDropHandle<Option<u16>>>,
}

impl HealthChecks {
    /// Returns true if the program that listens on `address` is healthy: the result of a new check, or of the
    /// last one while the new one has no response. A program is healthy after its start.
    pub(super) async fn is_healthy(&self, id: Uuid, address: SocketAddr, launch: &Launch) -> bool {
        let known = self.lock().remove(&id).filter(|it| it.address == address);
        let mut check = known.unwrap_or(Check { address, was_healthy: true, pending: None });
        let mut pending = check.pending.take().unwrap_or_else(|| {
            let path = launch.health.clone();
            let timeout = launch.timeout.min(RESPONSE_TIMEOUT_MAX);
            let sent = async move { http::get_status(address, &path, timeout).await };
            #[expect(clippy::disallowed_methods, reason = "the check is aborted with its handle")]
            AbortOnDropHandle::new(tokio::spawn(sent))
        });
        match tokio::time::timeout(REPORT_WAIT, &mut pending).await {
            Ok(status) => check.was_healthy = status.ok().flatten().is_some_and(http::is_healthy),
            Err(_) => check.pending = Some(pending),
        }
        let is_healthy = check.was_healthy;
        self.lock().insert(id, check);
        is_healthy
    }

    /// Forgets the checks of environments that are not in a list.
    pub(super) fn retain_only(&self, ids: &[Uuid]) {
        self.lock().retain(|id, _| ids.contains(id));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Check>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
