//! A load of changing and reading calls on all services, and a ledger of what was acknowledged.
//!
//! Each changing call has a `request_id`. A call that fails because of an outage is repeated once with the
//! same request id, on the next replica; a call that fails also then is a failed call. An attempt that cannot
//! be sent to a replica is sent to the next one. [`Load::stop`] returns the ledger, and [`Ledger::check`]
//! compares it with the audit log and the organization.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod ledger;
mod operation;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{task::JoinHandle, time::MissedTickBehavior};
use tonic::{Code, ConnectError, Status, transport::Channel};

pub use self::ledger::{Ledger, Outcome};
use self::operation::{Answer, Attempt, Operation};
use crate::Person;

/// Time-out of an attempt of a call.
const ATTEMPT_MAX: Duration = Duration::from_secs(15);
/// Largest number of sends of one attempt.
const SENDS_MAX: usize = 4;
/// Pause before the second attempt.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// Connections to the replicas of each service, in the same order for all services. The all-in-one has the
/// same connection for each service.
#[derive(Clone)]
pub struct Endpoints {
    /// Replicas of identity.
    pub identity: Vec<Channel>,
    /// Replicas of project.
    pub project: Vec<Channel>,
    /// Replicas of invitation.
    pub invitation: Vec<Channel>,
    /// Replicas of audit.
    pub audit: Vec<Channel>,
}

impl Endpoints {
    /// Returns the connections of a process or a gateway that serves all services.
    pub fn shared(channel: &Channel) -> Self {
        let channels = || vec![channel.clone()];
        Self {
            identity: channels(),
            project: channels(),
            invitation: channels(),
            audit: channels(),
        }
    }
}

/// An organization under load.
#[derive(Clone)]
pub struct Tenant {
    /// Id of the organization.
    pub org_id: String,
    /// Its Owner, who makes all calls.
    pub owner: Person,
    /// Members whose roles the load changes, one for each worker.
    pub members: Vec<Person>,
}

/// A running load.
pub struct Load {
    state: Arc<State>,
    workers: Vec<JoinHandle<()>>,
    started: Instant,
}

/// Shared by the workers.
struct State {
    tenant: Tenant,
    endpoints: RwLock<Endpoints>,
    next_replica: AtomicUsize,
    stopped: AtomicBool,
    calls: AtomicU64,
    retried: AtomicU64,
    /// Calls that wait for their second attempt, or for its end.
    retrying: AtomicU64,
    /// Number of successful calls after a retry and without one.
    succeeded: AtomicU64,
    record: Mutex<Record>,
}

/// Outcomes of calls.
#[derive(Default)]
struct Record {
    /// Ids of the events of successful calls.
    event_ids: Vec<String>,
    /// Names of created projects.
    projects: Vec<String>,
    /// Number of first attempts that failed, by method and error.
    retries: BTreeMap<String, u64>,
    /// Calls that failed after the retry, too, or for another reason than an outage.
    failures: Vec<String>,
}

impl Load {
    /// Starts a worker for each member of the tenant. Together they begin `calls_per_second` calls per
    /// second, or fewer if the services do not answer in time.
    pub fn start(tenant: Tenant, endpoints: Endpoints, calls_per_second: f64) -> Self {
        let count = u32::try_from(tenant.members.len()).unwrap();
        let interval = Duration::from_secs_f64(f64::from(count) / calls_per_second);
        let state = Arc::new(State {
            tenant,
            endpoints: RwLock::new(endpoints),
            next_replica: AtomicUsize::default(),
            stopped: AtomicBool::default(),
            calls: AtomicU64::default(),
            retried: AtomicU64::default(),
            retrying: AtomicU64::default(),
            succeeded: AtomicU64::default(),
            record: Mutex::default(),
        });
        let worker = |number| tokio::spawn(state.clone().work(number, interval));
        let workers = (0..state.tenant.members.len()).map(worker).collect();
        Self { state, workers, started: Instant::now() }
    }

    /// Number of calls that have succeeded so far.
    pub fn succeeded(&self) -> u64 {
        self.state.succeeded.load(Ordering::Relaxed)
    }

    /// Waits until `count` more calls have succeeded, and no call is repeated: the next fault would fail its
    /// second attempt, too.
    pub async fn wait_for_more(&self, count: u64) {
        let wanted = self.succeeded() + count;
        crate::eventually("further successful calls", async || {
            let is_repeating = self.state.retrying.load(Ordering::Relaxed) > 0;
            (self.succeeded() >= wanted && !is_repeating).then_some(())
        })
        .await;
    }

    /// Uses other connections for the following attempts.
    pub fn replace_endpoints(&self, endpoints: Endpoints) {
        *self.state.endpoints.write().unwrap() = endpoints;
    }

    /// Ends the load after the calls in flight.
    pub async fn stop(self) -> Ledger {
        self.state.stopped.store(true, Ordering::Relaxed);
        for worker in self.workers {
            worker.await.unwrap();
        }
        let state = Arc::into_inner(self.state).expect("the workers have ended");
        Ledger {
            tenant: state.tenant,
            endpoints: state.endpoints.into_inner().unwrap(),
            calls: state.calls.into_inner(),
            retried: state.retried.into_inner(),
            record: state.record.into_inner().unwrap(),
            duration: self.started.elapsed(),
        }
    }
}

impl State {
    /// Makes calls until the load is stopped.
    async fn work(self: Arc<Self>, number: usize, interval: Duration) {
        let member = self.tenant.members[number].user_id.clone();
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The workers begin at different operations.
        for turn in number.. {
            ticks.tick().await;
            if self.stopped.load(Ordering::Relaxed) {
                return;
            }
            let created = self.call(&Operation::of_turn(turn, &member)).await;
            if let Some(invitation) = created.and_then(|it| it.invitation_id) {
                self.call(&Operation::RevokeInvitation(invitation)).await;
            }
        }
    }

    /// Makes a call, at most in two attempts; `None` if it failed.
    async fn call(&self, operation: &Operation) -> Option<Answer> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let request_id = chassis::id::new();
        let replica = self.next_replica.fetch_add(1, Ordering::Relaxed);
        let mut answer = self.attempt(operation, request_id, replica).await;
        if let Err(status) = &answer
            && is_outage(status)
        {
            self.retried.fetch_add(1, Ordering::Relaxed);
            let retry = format!("{}: {}", operation.name(), describe(status));
            *self.record.lock().unwrap().retries.entry(retry).or_default() += 1;
            self.retrying.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(RETRY_PAUSE).await;
            answer = self.attempt(operation, request_id, replica + 1).await;
            self.retrying.fetch_sub(1, Ordering::Relaxed);
        }
        let mut record = self.record.lock().unwrap();
        match answer {
            Ok(answer) => {
                self.succeeded.fetch_add(1, Ordering::Relaxed);
                record.event_ids.extend(answer.event_ids.clone());
                if let Operation::CreateProject(name) = operation {
                    record.projects.push(name.clone());
                }
                Some(answer)
            }
            Err(status) => {
                record.failures.push(format!("{}: {}", operation.name(), describe(&status)));
                None
            }
        }
    }

    /// Sends a call to a replica, and at once to the next one while it cannot be sent.
    async fn attempt(
        &self,
        operation: &Operation,
        request_id: uuid::Uuid,
        replica: usize,
    ) -> Result<Answer, Status> {
        let endpoints = self.endpoints.read().unwrap().clone();
        let send = async |replica| {
            let attempt =
                Attempt { tenant: &self.tenant, endpoints: &endpoints, replica, request_id };
            let answer = tokio::time::timeout(ATTEMPT_MAX, operation.attempt(&attempt)).await;
            answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
        };
        let mut answer = send(replica).await;
        for next in replica + 1..replica + SENDS_MAX {
            if answer.as_ref().is_err_and(was_not_sent) {
                answer = send(next).await;
            }
        }
        answer
    }
}

/// True if the call was not sent: its connection ended before, for example at the end of its age, or could
/// not be made. gRPC clients send such a call again by themselves, on a replica that is connected
/// (transparent retry, gRFC A6); Tonic does not.
fn was_not_sent(status: &Status) -> bool {
    let first = std::error::Error::source(status);
    let mut causes = std::iter::successors(first, |it| it.source());
    status.code() == Code::Cancelled && first.is_some()
        || causes.any(<dyn std::error::Error>::is::<ConnectError>)
}

/// True if a client repeats a call with this error: the service or the connection failed, or the call met
/// another one (ABORTED).
fn is_outage(status: &Status) -> bool {
    let code = status.code();
    let is_transport = std::error::Error::source(status).is_some();
    matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Aborted)
        || is_transport && matches!(code, Code::Cancelled | Code::Unknown | Code::Internal)
}

/// Code, reason and message of an error, with the causes in the connection.
fn describe(status: &Status) -> String {
    let first = std::error::Error::source(status);
    let causes: Vec<_> =
        std::iter::successors(first, |it| it.source()).map(ToString::to_string).collect();
    let error = tenantry::client::CallError::from(status.clone());
    format!("{error} {}", causes.join(": ")).trim_end().to_owned()
}
