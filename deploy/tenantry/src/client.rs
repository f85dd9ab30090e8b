//! A client that speaks to any method of the suite and shows what it says and hears.

use anyhow::{Context, Result};
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage};
use tonic::{
    Code, Request, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;

/// A client of a running suite.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    pool: DescriptorPool,
    token: Option<String>,
}

/// An answer that was a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// gRPC code.
    pub code: Code,
    /// Stable reason; empty if the server gave none.
    pub reason: String,
    /// The sentence for people.
    pub message: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}: {}", self.code, self.reason, self.message)
    }
}

impl std::error::Error for Refusal {}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let reason = status.get_details_error_info().map(|it| it.reason).unwrap_or_default();
        Self { code: status.code(), reason, message: status.message().to_owned() }
    }
}

impl Client {
    /// Connects to a server; `authority` is the PEM of whoever signed its certificate.
    pub async fn connect(endpoint: &str, authority: Option<&str>) -> Result<Self> {
        let mut to = Endpoint::from_shared(endpoint.to_owned())?.tcp_nodelay(true);
        if let Some(pem) = authority {
            to =
                to.tls_config(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))?;
        }
        let channel = to.connect().await;
        let channel = channel.with_context(|| {
            format!("nobody answers at {endpoint}; start the suite with `cargo xtask run`")
        })?;
        let pool = DescriptorPool::decode(api::DESCRIPTORS)?;
        Ok(Self { channel, pool, token: None })
    }

    /// The connection, for generated clients.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The same connection with a credential.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// Calls a method: `tenantry.identity.v1.UserService/Register`.
    pub async fn call<Q, A>(&self, method: &str, question: Q) -> Result<A, Refusal>
    where
        Q: Message + Name + 'static,
        A: Message + Name + Default + 'static,
    {
        let mut request = Request::new(question);
        if let Some(token) = &self.token {
            let value = format!("Bearer {token}").parse();
            let value = value
                .map_err(|_| Status::invalid_argument("the token holds strange characters"))?;
            request.metadata_mut().insert("authorization", value);
        }
        request.set_timeout(std::time::Duration::from_secs(20));
        let path = format!("/{method}").parse();
        let path = path.map_err(|_| Status::invalid_argument("no name of a method"))?;
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let answer = grpc.unary(request, path, ProstCodec::<Q, A>::default()).await?;
        Ok(answer.into_inner())
    }

    /// A message as JSON, as grpcurl would show it.
    pub fn json<M: Message + Name>(&self, message: &M) -> Result<serde_json::Value> {
        let descriptor =
            self.pool.get_message_by_name(&M::full_name()).context("an unknown message")?;
        let dynamic = DynamicMessage::decode(descriptor, &*message.encode_to_vec())?;
        Ok(serde_json::to_value(&dynamic)?)
    }
}
