//! gRPC service of commands.

use api::project::{self as pb, environment_command_service_server::EnvironmentCommandService};
use chassis::{Access, Call, Db, Error, Reply, Tx, call::IncomingMessages};
use futures::{Stream, StreamExt, stream};
use project_rules::{
    command::{Session, wire},
    environment::Kind,
};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Streaming};
use worker::watch::Messages;

use super::session::{Caller, SessionTask, Sessions};
use crate::{environment::production_gate::ProductionGate, store, stream::RunnerStreams};

/// Implementation of `EnvironmentCommandService`.
pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) streams: RunnerStreams,
    pub(crate) tasks: UnboundedSender<SessionTask>,
    /// Ends sessions when the process shuts down.
    pub(crate) draining: CancellationToken,
}

#[tonic::async_trait]
impl EnvironmentCommandService for Rpc {
    type RunCommandStream = Messages<pb::RunCommandResponse>;

    async fn run_command(
        &self,
        request: Request<Streaming<pb::RunCommandRequest>>,
    ) -> Reply<Self::RunCommandStream> {
        let (mut call, incoming) = Call::of_stream(request).await?;
        let message = &call.message;
        let grant = self.access.project(&call, &message.org_id, &message.project_id).await?;
        let id = message.environment_id.parse()?;
        let environment = store::environment::get(&self.db, &grant, id).await?;
        let context = call.context();
        let gate =
            ProductionGate { db: &self.db, access: &self.access, context: &context, grant: &grant };
        gate.authorize(environment.kind == Kind::Production).await?;
        let command = wire::command(message);
        let session = Session::new(environment, &command, self.db.now()).map_err(Error::from)?;
        let started = session.started();
        let event_id = started.event_id();
        // Before the start: a command that is not recorded is not run.
        let record = async |tx: &mut Tx| {
            tx.emit(started);
            Ok(pb::RunCommandResponse::default())
        };
        self.db.write(&call, record).await?;
        let first_input = wire::first_input(std::mem::take(&mut call.message));
        let sessions = Sessions {
            db: self.db.clone(),
            access: self.access.clone(),
            streams: self.streams.clone(),
            tasks: self.tasks.clone(),
            draining: self.draining.clone(),
        };
        let caller = Caller { call, event_id, first_input, inputs: inputs(incoming).boxed() };
        let parts = sessions.start(session, command, caller).await?;
        let responses = parts.map(|part| part.map(wire::response));
        Ok(Response::new(responses.boxed()))
    }
}

/// Returns the messages to a command until the caller's stream ends or fails.
fn inputs(
    incoming: IncomingMessages<pb::RunCommandRequest>,
) -> impl Stream<Item = chassis::Result<pb::StreamInput>> + Send {
    stream::unfold(incoming, async |mut incoming| {
        let message = incoming.next().await.transpose()?;
        Some((message.map(wire::input), incoming))
    })
}
