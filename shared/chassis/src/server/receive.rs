//! Receiving of request bodies: completely, or the first message of a stream, within their size limit and
//! deadline, before the call takes one of the permits for calls in flight.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use http_body::Frame;
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use tonic::body::Body;

use super::limits::Limits;
use crate::{
    budget::{Exhausted, Reservation},
    rule::Rule,
};

/// Longest duration of receiving a body, if the call has no earlier deadline.
pub const RECEIVE_MAX: Duration = Duration::from_secs(10);

/// Length of the prefix of a message in gRPC: a flag and the length of the message.
const PREFIX_BYTES: usize = 5;

/// Extent of a body that is received before the call is processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// The whole body.
    Complete,
    /// The first message of a stream. The handler reads the others.
    FirstMessage,
}

impl Extent {
    pub(super) fn of(rule: &Rule) -> Self {
        if rule.client_streaming { Self::FirstMessage } else { Self::Complete }
    }
}

/// A body, or the beginning of one.
pub struct ReceivedBody {
    /// The bytes that were received.
    pub bytes: Bytes,
    /// The rest of a stream; `None` if the body is complete.
    pub rest: Option<Body>,
    /// Reservation of its bytes for the sender's network, to be held until the call has ended.
    pub reservation: Reservation<String>,
}

/// Error of receiving a body.
#[derive(Clone, Copy, Debug)]
pub enum ReceiveError {
    /// The body was not complete at its deadline.
    Timeout,
    /// The body is larger than allowed.
    TooLarge,
    /// Too many bodies are in transfer, or too many bytes in use: in the server or from the sender's network.
    Exhausted(Exhausted),
    /// The sender disconnected, or violated HTTP/2.
    Broken,
}

impl Limits {
    /// Receives a body of at most `max` bytes. It counts against the limits of the
    /// network of `address`, which is the sender's.
    pub async fn receive(
        &self,
        body: Body,
        max: usize,
        deadline: Instant,
        address: &str,
    ) -> Result<ReceivedBody, ReceiveError> {
        self.receive_extent(body, Extent::Complete, max, deadline, address).await
    }

    /// [`Self::receive`] for a part of a body.
    pub(super) async fn receive_extent(
        &self,
        body: Body,
        extent: Extent,
        max: usize,
        deadline: Instant,
        address: &str,
    ) -> Result<ReceivedBody, ReceiveError> {
        let deadline = deadline.min(Instant::now() + RECEIVE_MAX);
        let reading = self.read(body, extent, max, address);
        let read = tokio::time::timeout_at(deadline.into(), reading).await;
        read.unwrap_or(Err(ReceiveError::Timeout))
    }

    async fn read(
        &self,
        mut body: Body,
        extent: Extent,
        max: usize,
        address: &str,
    ) -> Result<ReceivedBody, ReceiveError> {
        let is_received = |bytes: &[u8]| extent == Extent::FirstMessage && has_message(bytes);
        let mut incoming = self.incoming_body(address).map_err(ReceiveError::Exhausted)?;
        // A body in one frame, which is the usual case, is not copied.
        let mut first = Bytes::new();
        let mut joined = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| ReceiveError::Broken)?.into_data() else { continue };
            if first.len() + joined.len() + data.len() > max {
                return Err(ReceiveError::TooLarge);
            }
            incoming.grow(data.len()).map_err(ReceiveError::Exhausted)?;
            if first.is_empty() && joined.is_empty() {
                first = data;
            } else {
                joined.extend_from_slice(&std::mem::take(&mut first));
                joined.extend_from_slice(&data);
            }
            if is_received(if joined.is_empty() { &first } else { &joined }) {
                break;
            }
        }
        let bytes = if joined.is_empty() { first } else { joined.freeze() };
        let rest = (extent == Extent::FirstMessage).then_some(body);
        Ok(ReceivedBody { bytes, rest, reservation: incoming.complete() })
    }
}

/// Returns true if a body begins with a complete message.
fn has_message(bytes: &[u8]) -> bool {
    let Some(([_, length @ ..], message)) = bytes.split_first_chunk::<PREFIX_BYTES>() else {
        return false;
    };
    usize::try_from(u32::from_be_bytes(*length)).is_ok_and(|it| message.len() >= it)
}

/// Returns a body with these bytes, followed by the rest of a stream.
pub(super) fn body(bytes: Bytes, rest: Option<Body>) -> Body {
    let Some(rest) = rest else { return Body::new(Full::new(bytes)) };
    let first = stream::once(async { Ok(Frame::data(bytes)) });
    Body::new(StreamBody::new(first.chain(BodyStream::new(rest))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_complete_with_the_bytes_of_its_prefix() {
        assert!(!has_message(b""));
        assert!(!has_message(&[0, 0, 0, 0]));
        assert!(has_message(&[0, 0, 0, 0, 0]));
        assert!(!has_message(&[0, 0, 0, 0, 2, 1]));
        assert!(has_message(&[0, 0, 0, 0, 2, 1, 2]));
        assert!(has_message(&[0, 0, 0, 0, 2, 1, 2, 3]), "the next message has begun");
        assert!(!has_message(&[0, 255, 255, 255, 255, 0]));
    }
}
