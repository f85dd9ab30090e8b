//! gRPC client for any method of the API, with typed messages or with JSON.

use std::{fmt, path::Path, time::Duration};

use anyhow::{Context, Result};
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use tonic::{
    Code, Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;

/// Deadline of each call.
const DEADLINE: Duration = Duration::from_secs(20);

/// A client of a running suite.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    descriptors: DescriptorPool,
    token: Option<String>,
    /// True if JSON responses have the fields with default values, too.
    with_defaults: bool,
}

/// Error of a call: the gRPC status with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError {
    /// gRPC status code.
    pub code: Code,
    /// Stable reason (`google.rpc.ErrorInfo`); empty if the server sent none.
    pub reason: String,
    /// Message for people.
    pub message: String,
    /// Full names of the methods that remove the cause; empty if there is none.
    pub remedies: Vec<String>,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}: {}", self.code, self.reason, self.message)
    }
}

impl std::error::Error for CallError {}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        let info = status.get_details_error_info();
        let remedies = info.as_ref().and_then(|it| it.metadata.get("remedies"));
        let remedies = remedies.map(|it| it.split(',').map(str::to_owned).collect());
        Self {
            code: status.code(),
            reason: info.map(|it| it.reason).unwrap_or_default(),
            message: status.message().to_owned(),
            remedies: remedies.unwrap_or_default(),
        }
    }
}

impl Client {
    /// Connects to a server. `ca_certificate`: PEM of the authority that signed the server's certificate.
    pub async fn connect(url: &str, ca_certificate: Option<&str>) -> Result<Self> {
        let mut endpoint = Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true);
        if let Some(pem) = ca_certificate {
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
            endpoint = endpoint.tls_config(tls)?;
        }
        let channel = endpoint.connect().await;
        let channel = channel.with_context(|| {
            format!("cannot connect to {url}; start the suite with `cargo xtask run`")
        })?;
        let descriptors = DescriptorPool::decode(api::DESCRIPTORS)?;
        Ok(Self { channel, descriptors, token: None, with_defaults: false })
    }

    /// Connects to the AdminService of a process at its Unix socket.
    pub async fn connect_to_socket(path: &Path) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("unix:{}", path.display()))?;
        let channel = endpoint.connect().await.with_context(|| {
            format!(
                "cannot connect to {}; name the socket of a running process with --socket, as its user",
                path.display()
            )
        })?;
        let descriptors = DescriptorPool::decode(api::ADMIN_DESCRIPTORS)?;
        Ok(Self { channel, descriptors, token: None, with_defaults: true })
    }

    /// Returns the connection, for generated clients.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Returns a client with a credential that uses the same connection.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// Calls a method, for example `tenantry.identity.v1.UserService/Register`.
    pub async fn call<Q, A>(&self, method: &str, request: Q) -> Result<A, CallError>
    where
        Q: Message + Name + 'static,
        A: Message + Name + Default + 'static,
    {
        self.unary(method, request, ProstCodec::<Q, A>::default()).await
    }

    /// Calls a method with JSON, like grpcurl. The prefix `tenantry.` is left out, for example
    /// `identity.v1.TeamService/CreateTeam`.
    pub async fn call_json(
        &self,
        method: &str,
        request: serde_json::Value,
    ) -> Result<serde_json::Value, CallError> {
        let invalid = |message: String| CallError::from(Status::invalid_argument(message));
        let (service, name) = method.split_once('/').unwrap_or_default();
        let service = self.descriptors.get_service_by_name(&format!("tenantry.{service}"));
        let descriptor = service.and_then(|it| it.methods().find(|it| it.name() == name));
        let descriptor = descriptor.ok_or_else(|| invalid(format!("unknown method {method}")))?;
        let request = DynamicMessage::deserialize(descriptor.input(), request);
        let request = request.map_err(|error| invalid(error.to_string()))?;
        let codec = DynamicCodec { response: descriptor.output() };
        let response = self.unary(&format!("tenantry.{method}"), request, codec).await?;
        let options = SerializeOptions::new().skip_default_fields(!self.with_defaults);
        let json = response.serialize_with_options(serde_json::value::Serializer, &options);
        json.map_err(|error| invalid(error.to_string()))
    }

    /// Returns a request with the credential, without a deadline.
    pub(crate) fn request<M>(&self, message: M) -> Result<Request<M>, CallError> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            let bearer = format!("Bearer {token}").parse();
            let bearer =
                bearer.map_err(|_| Status::invalid_argument("the token has invalid characters"))?;
            request.metadata_mut().insert("authorization", bearer);
        }
        Ok(request)
    }

    async fn unary<C>(
        &self,
        method: &str,
        message: C::Encode,
        codec: C,
    ) -> Result<C::Decode, CallError>
    where
        C: Codec,
        C::Encode: Send + Sync + 'static,
        C::Decode: Send + Sync + 'static,
    {
        let mut request = self.request(message)?;
        request.set_timeout(DEADLINE);
        let path = format!("/{method}").parse();
        let path =
            path.map_err(|_| Status::invalid_argument(format!("invalid method name {method}")))?;
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(grpc.unary(request, path, codec).await?.into_inner())
    }

    /// Returns a message in canonical JSON, as grpcurl prints it.
    pub fn to_json<M: Message + Name>(&self, message: &M) -> Result<serde_json::Value> {
        let name = M::full_name();
        let descriptor = self.descriptors.get_message_by_name(&name);
        let descriptor = descriptor.with_context(|| format!("unknown message {name}"))?;
        let dynamic = DynamicMessage::decode(descriptor, &*message.encode_to_vec())?;
        Ok(serde_json::to_value(&dynamic)?)
    }
}

/// gRPC codec for messages that are known only by their descriptors.
#[derive(Clone)]
struct DynamicCodec {
    response: MessageDescriptor,
}

impl Codec for DynamicCodec {
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

impl Encoder for DynamicCodec {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, item: DynamicMessage, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buffer).map_err(|error| Status::data_loss(error.to_string()))
    }
}

impl Decoder for DynamicCodec {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let message = DynamicMessage::decode(self.response.clone(), buffer);
        message.map(Some).map_err(|error| Status::data_loss(error.to_string()))
    }
}
