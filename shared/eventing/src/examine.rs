//! Check of a NATS server for `doctor`: connection, JetStream, and the stream of the suite. Creates nothing.

use std::{fmt, time::Duration};

use anyhow::{Context, bail};
use async_nats::{
    ConnectOptions,
    jetstream::{self, context::GetStreamErrorKind},
};

use crate::{
    jetstream::{JetStream, STREAM, require_version},
    nats_url::NatsUrl,
};

/// Time limit of connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// State of a NATS server.
pub struct NatsState {
    version: String,
    /// Stream of the suite; `None` before the first start.
    stream: Option<StreamState>,
}

struct StreamState {
    messages: u64,
    replicas: usize,
}

impl fmt::Display for NatsState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nats-server {}", self.version)?;
        match &self.stream {
            Some(StreamState { messages, replicas }) => {
                write!(f, ", {messages} events in the stream {STREAM} with {replicas} replicas")
            }
            None => write!(f, ", the stream {STREAM} is created at the start"),
        }
    }
}

impl JetStream {
    /// Connects once, and reads the state of the stream. Fails if the server cannot be used.
    pub async fn examine(url: &str) -> anyhow::Result<NatsState> {
        let url = NatsUrl::parse(url)?;
        let addresses = url.addresses();
        let options = url.authenticate(ConnectOptions::new().connection_timeout(CONNECT_TIMEOUT));
        let client = options.connect(&url.servers[..]).await;
        let client = client.with_context(|| {
            format!("NATS at {addresses} does not accept the connection; check --nats-url")
        })?;
        let version = client.server_info().version;
        require_version(&version)?;
        let mut context = jetstream::new(client);
        context.set_timeout(CONNECT_TIMEOUT);
        let stream = match context.get_stream(STREAM).await {
            Ok(stream) => {
                let info = stream.cached_info();
                let replicas = info.config.num_replicas;
                Some(StreamState { messages: info.state.messages, replicas })
            }
            Err(error) if is_missing(&error.kind()) => None,
            Err(error) => bail!(
                "NATS at {addresses} has no JetStream (start nats-server with -js), or the user of \
                 --nats-url may not use it: {error}"
            ),
        };
        Ok(NatsState { version, stream })
    }
}

fn is_missing(kind: &GetStreamErrorKind) -> bool {
    match kind {
        GetStreamErrorKind::JetStream(error) => {
            error.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND
        }
        _ => false,
    }
}
