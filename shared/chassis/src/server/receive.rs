//! Receiving of request bodies: completely, within their size limit and deadline, before the call takes one
//! of the permits for calls in flight.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tonic::body::Body;

use super::limits::Limits;
use crate::budget::{Exhausted, Reservation};

/// Longest duration of receiving a body, if the call has no earlier deadline.
pub const RECEIVE_MAX: Duration = Duration::from_secs(10);

/// A complete body.
pub struct ReceivedBody {
    /// The body.
    pub bytes: Bytes,
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
        let deadline = deadline.min(Instant::now() + RECEIVE_MAX);
        let reading = self.read(body, max, address);
        let read = tokio::time::timeout_at(deadline.into(), reading).await;
        read.unwrap_or(Err(ReceiveError::Timeout))
    }

    async fn read(
        &self,
        mut body: Body,
        max: usize,
        address: &str,
    ) -> Result<ReceivedBody, ReceiveError> {
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
                continue;
            }
            joined.extend_from_slice(&std::mem::take(&mut first));
            joined.extend_from_slice(&data);
        }
        let bytes = if joined.is_empty() { first } else { joined.freeze() };
        Ok(ReceivedBody { bytes, reservation: incoming.complete() })
    }
}
