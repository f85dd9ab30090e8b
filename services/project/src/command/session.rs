//! A session: its input, its output, and its end, which is recorded.
//!
//! The task of a session forwards the input and checks the permission of the caller, also while the caller
//! does not read the output. It ends the session at the runner when the response has ended.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use api::{
    check::Check,
    error::Reason,
    project::{self as pb, CommandEnd, CommandRefusal},
};
use chassis::{Access, Call, Db, Error, Result, error::status};
use futures::{
    Stream, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use project_rules::command::{Refused, Session, SessionEnd};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Status};
use uuid::Uuid;

use worker::watch::shutting_down;

use crate::stream::{RunnerStreams, input::InputQueue};

/// Longest duration of a session.
const DURATION_MAX: Duration = Duration::from_hours(12);

/// Starts sessions.
pub(crate) struct Sessions {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) streams: RunnerStreams,
    /// Receiver of the tasks of sessions.
    pub(crate) tasks: UnboundedSender<SessionTask>,
    /// Ends sessions when the process shuts down.
    pub(crate) draining: CancellationToken,
}

/// Task of a session, to be run by [`run_tasks`].
pub(crate) type SessionTask = BoxFuture<'static, ()>;

/// Caller of a session.
pub(crate) struct Caller<M> {
    pub(crate) call: Call<M>,
    /// Event of the start.
    pub(crate) event_id: Uuid,
    pub(crate) first_input: Option<pb::StreamInput>,
    pub(crate) inputs: BoxStream<'static, Result<pb::StreamInput>>,
}

/// End of a session; the first cause counts.
#[derive(Clone, Default)]
struct Outcome(Arc<OnceLock<(SessionEnd, Option<Status>)>>);

/// Output of a session.
struct Output<S> {
    parts: S,
    session: Session,
    outcome: Outcome,
    deadline: Instant,
    /// Cancelled when the task of the session ends it.
    stopped: CancellationToken,
    is_ended: bool,
    /// Ends the task of the session.
    _closed: DropGuard,
}

/// Task of a session.
struct Attendant<M> {
    db: Db,
    access: Access,
    session: Session,
    caller: Caller<M>,
    queue: InputQueue,
    outcome: Outcome,
    closed: CancellationToken,
    stopped: CancellationToken,
    draining: CancellationToken,
}

impl Sessions {
    /// Starts the command of a session; returns the parts of its output.
    pub(crate) async fn start<M: Check + Send + Sync + 'static>(
        self,
        session: Session,
        command: pb::CommandLease,
        mut caller: Caller<M>,
    ) -> Result<impl Stream<Item = Result<pb::StreamPart, Status>> + Send + use<M>> {
        let mut queue = self.streams.input_queue(session.server_id, session.id).await?;
        if let Some(input) = caller.first_input.take() {
            queue.push(input);
        }
        let closed = CancellationToken::new();
        let stopped = CancellationToken::new();
        let outcome = Outcome::default();
        let attendant = Attendant {
            db: self.db,
            access: self.access,
            session: session.clone(),
            caller,
            queue,
            outcome: outcome.clone(),
            closed: closed.clone(),
            stopped: stopped.clone(),
            draining: self.draining.clone(),
        };
        let sent = self.tasks.send(Box::pin(attendant.run()));
        sent.map_err(|_| Error::Remote(Box::new(shutting_down())))?;
        let closed = closed.drop_guard();
        let lease = pb::StreamLease {
            environment_id: session.environment.id.into(),
            command: Some(command),
            ..pb::StreamLease::default()
        };
        let parts = self.streams.open(session.server_id, session.id, lease, self.draining).await;
        let parts = parts.inspect_err(|_| outcome.set(CommandEnd::Failed, None))?;
        let output = Output {
            parts: parts.boxed(),
            session,
            outcome,
            deadline: Instant::now() + DURATION_MAX,
            stopped,
            is_ended: false,
            _closed: closed,
        };
        Ok(stream::unfold(output, async |mut output| {
            output.next().await.map(|part| (part, output))
        }))
    }
}

impl Outcome {
    fn set(&self, cause: CommandEnd, status: Option<i32>) {
        let _ = self.0.set((SessionEnd { cause, status }, None));
    }

    /// Sets the end together with the error for the caller.
    fn set_error(&self, cause: CommandEnd, error: Status) {
        let _ = self.0.set((SessionEnd { cause, status: None }, Some(error)));
    }
}

impl<S: Stream<Item = Result<pb::StreamPart, Status>> + Unpin> Output<S> {
    async fn next(&mut self) -> Option<Result<pb::StreamPart, Status>> {
        if self.is_ended {
            return None;
        }
        let part = tokio::select! {
            biased;
            () = self.stopped.cancelled() => {
                let end = self.outcome.0.get();
                Some(Err(end.and_then(|it| it.1.clone()).unwrap_or_else(|| Status::cancelled(""))))
            }
            part = self.parts.next() => part,
            () = tokio::time::sleep_until(self.deadline) => Some(Err(expired())),
        };
        let part = part?.and_then(|it| self.check(it));
        match &part {
            Ok(part) if !part.last => {}
            Ok(part) => {
                self.outcome.set(CommandEnd::Exited, part.exit.map(|it| it.status));
                self.is_ended = true;
            }
            Err(_) => {
                self.outcome.set(CommandEnd::Failed, None);
                self.is_ended = true;
            }
        }
        Some(part)
    }

    /// Fails for a part that says that the command was not started.
    fn check(&self, part: pb::StreamPart) -> Result<pb::StreamPart, Status> {
        let refused = match part.refusal() {
            CommandRefusal::Unspecified => return Ok(part),
            CommandRefusal::Limit => Refused::Limit,
            CommandRefusal::NotRunning => {
                Refused::NotRunning(self.session.environment.state.as_str())
            }
            CommandRefusal::Unsupported => Refused::NotSupported(self.session.server_id),
        };
        Err(Error::from(refused).into())
    }
}

impl<M: Check> Attendant<M> {
    async fn run(mut self) {
        let context = self.caller.call.context();
        let error = tokio::select! {
            () = self.closed.cancelled() => None,
            () = self.draining.cancelled() => Some(Error::Remote(Box::new(shutting_down()))),
            error = self.access.until_revoked(&context) => Some(error),
            error = self.queue.forward(&mut self.caller.inputs) => Some(error),
        };
        self.queue.close().await;
        let error = match error {
            Some(error) => Some(error),
            // The server stack ends the response of a caller without the permission, too.
            None if self.outcome.0.get().is_none() => self.access.revalidate(&context).await.err(),
            None => None,
        };
        match error.map(Status::from) {
            Some(error)
                if [Code::PermissionDenied, Code::Unauthenticated].contains(&error.code()) =>
            {
                self.outcome.set_error(CommandEnd::PermissionLost, error);
            }
            Some(error) if self.draining.is_cancelled() => {
                self.outcome.set_error(CommandEnd::Failed, error);
            }
            Some(error) => self.outcome.set_error(CommandEnd::CallerGone, error),
            None => self.outcome.set(CommandEnd::CallerGone, None),
        }
        self.stopped.cancel();
        let Some((end, _)) = self.outcome.0.get() else { return };
        let record = EndRecord {
            db: &self.db,
            call: &self.caller.call,
            session: &self.session,
            cause: self.caller.event_id,
            end: *end,
        };
        if let Err(error) = worker::record("command session", || record.write()).await {
            let (session, error) = (self.session.id, chassis::error::causes(&error));
            tracing::error!(error, %session, "the end of a session is not recorded");
        }
    }
}

/// The event of the end of a session.
struct EndRecord<'a, M> {
    db: &'a Db,
    call: &'a Call<M>,
    session: &'a Session,
    /// Event of the start.
    cause: Uuid,
    end: SessionEnd,
}

impl<M: Check> EndRecord<'_, M> {
    /// Writes it on behalf of the caller, who may have no permission any more.
    async fn write(&self) -> Result<()> {
        let record = async |tx: &mut chassis::Tx| {
            tx.set_cause(Some(self.cause));
            let now = tx.now;
            tx.emit(self.session.ended(self.end, now));
            Ok(())
        };
        self.db.write_refusal(self.call, record).await
    }
}

/// Runs the tasks of sessions. When the process shuts down, it waits for their ends, which they record.
pub(crate) async fn run_tasks(
    mut tasks: UnboundedReceiver<SessionTask>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            Some(task) = tasks.recv() => drop(running.spawn(task)),
            Some(_) = running.join_next() => {}
            () = stop.cancelled() => break,
        }
    }
    while running.join_next().await.is_some() {}
    Ok(())
}

fn expired() -> Status {
    let message = "the session reached 12 hours; start another one";
    status(Code::DeadlineExceeded, Reason::DeadlineExceeded, message, vec![])
}
