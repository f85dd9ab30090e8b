//! gRPC calls of any method with any bytes as the request message.

use bytes::{Buf, BufMut, Bytes};
use futures::{StreamExt, stream};
use prost_reflect::{DescriptorPool, MethodDescriptor};
use tonic::{
    Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

/// Every method of the contract.
pub(crate) fn methods() -> Vec<MethodDescriptor> {
    let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
    pool.services().flat_map(|it| it.methods().collect::<Vec<_>>()).collect()
}

/// `package.Service/Method`.
pub(crate) fn name(method: &MethodDescriptor) -> String {
    format!("{}/{}", method.parent_service().full_name(), method.name())
}

/// Reason of an error (`UPPER_SNAKE`).
pub(crate) fn reason(status: &Status) -> String {
    tenantry::client::CallError::from(status.clone()).reason
}

/// Opens a connection.
pub(crate) async fn connect(address: std::net::SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

/// Calls a method with these bytes.
pub(crate) async fn call(
    channel: &Channel,
    method: &str,
    token: Option<&str>,
    body: Vec<u8>,
) -> Result<Bytes, Status> {
    call_within(channel, method, token, body, None).await
}

/// Calls a method with these bytes and a deadline.
pub(crate) async fn call_within(
    channel: &Channel,
    method: &str,
    token: Option<&str>,
    body: Vec<u8>,
    deadline: Option<std::time::Duration>,
) -> Result<Bytes, Status> {
    let mut request = Request::new(Bytes::from(body));
    if let Some(deadline) = deadline {
        request.set_timeout(deadline);
    }
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = format!("/{method}").parse().unwrap();
    if methods().iter().any(|it| it.is_server_streaming() && name(it) == method) {
        // Only the status of the call is returned, because a stream may have no end.
        return grpc.server_streaming(request, path, Raw).await.map(|_| Bytes::new());
    }
    let answer = grpc.unary(request, path, Raw).await?;
    Ok(answer.into_inner())
}

/// Opens a server stream with an empty request.
pub(crate) async fn stream(
    channel: &Channel,
    method: &str,
) -> Result<tonic::Streaming<Bytes>, Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = format!("/{method}").parse().unwrap();
    let answer = grpc.server_streaming(Request::new(Bytes::new()), path, Raw).await?;
    Ok(answer.into_inner())
}

/// Calls a method with a body that never ends.
pub(crate) async fn call_with_unfinished_body(
    channel: &Channel,
    method: &str,
    deadline: Option<std::time::Duration>,
) -> Result<Bytes, Status> {
    let first = stream::once(async { Bytes::new() });
    let mut request = Request::new(first.chain(stream::pending()));
    if let Some(deadline) = deadline {
        // Only the server applies this deadline; `set_timeout` would also set a timer in the client.
        let value = format!("{}m", deadline.as_millis()).parse().unwrap();
        request.metadata_mut().insert("grpc-timeout", value);
    }
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let answer = grpc.client_streaming(request, format!("/{method}").parse().unwrap(), Raw).await?;
    Ok(answer.into_inner())
}

/// Calls a bidirectional stream; returns the first message of its response.
pub(crate) async fn first_message(
    channel: &Channel,
    method: &str,
    body: Vec<u8>,
) -> Result<Bytes, Status> {
    let request = Request::new(stream::once(async { Bytes::from(body) }));
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let answer = grpc.streaming(request, format!("/{method}").parse().unwrap(), Raw).await?;
    let first = answer.into_inner().message().await?;
    first.ok_or_else(|| Status::unknown("the stream is empty"))
}

/// Codec whose messages are bytes.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length)))
    }
}
