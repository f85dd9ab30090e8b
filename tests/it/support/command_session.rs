//! A session of RunCommand, as a caller has it.

use api::project::{
    self as pb, environment_command_service_client::EnvironmentCommandServiceClient,
};
use futures::{SinkExt, channel::mpsc};
use testkit::{Person, TIMEOUT};
use tonic::{Status, Streaming, transport::Channel};

use super::{audit_client::as_person, world::World};

/// A running command.
pub(crate) struct CommandSession {
    /// Messages to the command; dropped at the end of the input.
    pub(crate) requests: Option<mpsc::Sender<pb::RunCommandRequest>>,
    pub(crate) responses: Streaming<pb::RunCommandResponse>,
    /// Output so far.
    pub(crate) output: Vec<u8>,
    pub(crate) errors: Vec<u8>,
}

/// Returns the first message for a command without a terminal.
pub(crate) fn command(world: &World, id: &str, arguments: &[&str]) -> pb::RunCommandRequest {
    pb::RunCommandRequest {
        org_id: world.org.clone(),
        project_id: world.project.clone(),
        environment_id: id.to_owned(),
        arguments: arguments.iter().map(|it| (*it).to_owned()).collect(),
        ..Default::default()
    }
}

pub(crate) fn input(bytes: impl Into<Vec<u8>>) -> pb::RunCommandRequest {
    pb::RunCommandRequest { input: bytes.into(), ..Default::default() }
}

impl CommandSession {
    /// Starts a command.
    pub(crate) async fn start(
        channel: &Channel,
        person: &Person,
        first: pb::RunCommandRequest,
    ) -> Result<Self, Status> {
        let (mut requests, receiver) = mpsc::channel(4);
        requests.send(first).await.unwrap();
        let mut client = EnvironmentCommandServiceClient::new(channel.clone());
        let responses = client.run_command(as_person(person, receiver)).await?.into_inner();
        Ok(Self { requests: Some(requests), responses, output: vec![], errors: vec![] })
    }

    pub(crate) async fn send(&mut self, request: pb::RunCommandRequest) {
        self.requests.as_mut().unwrap().send(request).await.unwrap();
    }

    /// Receives the next message; returns the exit status of the last one.
    async fn receive(&mut self) -> Result<Option<i32>, Status> {
        let message = tokio::time::timeout(TIMEOUT, self.responses.message()).await;
        let message = message.unwrap_or_else(|_| panic!("no output after {}", self.text()))?;
        let message = message.unwrap_or_else(|| panic!("no exit status after {}", self.text()));
        self.output.extend(message.output);
        self.errors.extend(message.error_output);
        Ok(message.exit.map(|it| it.status))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }

    /// Waits until the output contains a text.
    pub(crate) async fn wait_for(&mut self, part: &str) {
        while !self.text().contains(part) {
            let exit = self.receive().await.unwrap();
            assert!(exit.is_none() || self.text().contains(part), "{exit:?}: {}", self.text());
        }
    }

    /// Waits for the exit of the command; returns its status.
    pub(crate) async fn wait(&mut self) -> Result<i32, Status> {
        loop {
            if let Some(status) = self.receive().await? {
                return Ok(status);
            }
        }
    }
}

/// Runs a command to its end, without input; returns its output and its status.
pub(crate) async fn run(
    channel: &Channel,
    person: &Person,
    first: pb::RunCommandRequest,
) -> (String, i32) {
    let mut session = CommandSession::start(channel, person, first).await.unwrap();
    session.requests = None;
    let status = session.wait().await.unwrap();
    let errors = String::from_utf8_lossy(&session.errors).into_owned();
    (session.text() + &errors, status)
}
