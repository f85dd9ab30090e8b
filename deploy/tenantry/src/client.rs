//! A client that speaks to any method of the suite and shows what it says and hears.

use anyhow::{Context, Result};
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use tonic::{
    Code, Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
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
        self.unary(method, question, ProstCodec::<Q, A>::default()).await
    }

    async fn unary<C>(
        &self,
        method: &str,
        question: C::Encode,
        codec: C,
    ) -> Result<C::Decode, Refusal>
    where
        C: Codec,
        C::Encode: Send + Sync + 'static,
        C::Decode: Send + Sync + 'static,
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
        Ok(grpc.unary(request, path, codec).await?.into_inner())
    }

    /// Calls a method with JSON, as grpcurl does: `identity.v1.TeamService/CreateTeam`.
    pub async fn ask(
        &self,
        method: &str,
        question: serde_json::Value,
    ) -> Result<serde_json::Value, Refusal> {
        let wrong = |what: String| Refusal::from(Status::invalid_argument(what));
        let (service, name) = method.split_once('/').unwrap_or_default();
        let service = self.pool.get_service_by_name(&format!("tenantry.{service}"));
        let found = service.and_then(|it| it.methods().find(|it| it.name() == name));
        let found = found.ok_or_else(|| wrong(format!("there is no method {method}")))?;
        let question = DynamicMessage::deserialize(found.input(), question);
        let question = question.map_err(|error| wrong(error.to_string()))?;
        let codec = Dynamic(found.output());
        let answer = self.unary(&format!("tenantry.{method}"), question, codec).await?;
        serde_json::to_value(&answer).map_err(|error| wrong(error.to_string()))
    }

    /// A message as JSON, as grpcurl would show it.
    pub fn json<M: Message + Name>(&self, message: &M) -> Result<serde_json::Value> {
        let descriptor =
            self.pool.get_message_by_name(&M::full_name()).context("an unknown message")?;
        let dynamic = DynamicMessage::decode(descriptor, &*message.encode_to_vec())?;
        Ok(serde_json::to_value(&dynamic)?)
    }
}

/// Messages that are known only by their descriptors.
#[derive(Clone)]
struct Dynamic(MessageDescriptor);

impl Codec for Dynamic {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, item: DynamicMessage, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(to).map_err(|error| Status::data_loss(error.to_string()))
    }
}

impl Decoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let message = DynamicMessage::decode(self.0.clone(), from);
        message.map(Some).map_err(|error| Status::data_loss(error.to_string()))
    }
}
