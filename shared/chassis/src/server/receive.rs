//! Bodies of requests: whole, within their limit and their time, before anything is taken for the call.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tonic::body::Body;

use super::limits::Limits;
use crate::budget::{Exhausted, Share};

/// Longest arrival of a body, if the call has no earlier deadline.
pub(crate) const ARRIVAL_MAX: Duration = Duration::from_secs(10);

/// A body that has arrived.
pub(crate) struct Received {
    pub(crate) bytes: Bytes,
    /// Its bytes, counted as long as they are worked on.
    pub(crate) share: Share<String>,
}

/// Why a body was not received.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NotReceived {
    /// It did not arrive in time.
    Late,
    /// It is larger than allowed.
    TooLarge,
    /// The server, or the sender's address, has too many bodies that arrive.
    Exhausted(Exhausted),
    /// The sender went away, or broke the protocol.
    Broken,
}

impl Limits {
    /// Reads a body of `max` bytes at most.
    pub(crate) async fn receive(
        &self,
        body: Body,
        max: usize,
        deadline: Instant,
        address: &str,
    ) -> Result<Received, NotReceived> {
        let deadline = deadline.min(Instant::now() + ARRIVAL_MAX);
        let reading = self.read(body, max, address);
        let read = tokio::time::timeout_at(deadline.into(), reading).await;
        read.unwrap_or(Err(NotReceived::Late))
    }

    async fn read(
        &self,
        mut body: Body,
        max: usize,
        address: &str,
    ) -> Result<Received, NotReceived> {
        let mut arriving = self.arrive(address).map_err(NotReceived::Exhausted)?;
        let (mut first, mut more) = (Bytes::new(), BytesMut::new());
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| NotReceived::Broken)?.into_data() else { continue };
            if first.len() + more.len() + data.len() > max {
                return Err(NotReceived::TooLarge);
            }
            arriving.grow(data.len()).map_err(NotReceived::Exhausted)?;
            match (first.is_empty(), more.is_empty()) {
                (true, true) => first = data,
                (false, _) => {
                    more.extend_from_slice(&std::mem::take(&mut first));
                    more.extend_from_slice(&data);
                }
                (true, false) => more.extend_from_slice(&data),
            }
        }
        let bytes = if more.is_empty() { first } else { more.freeze() };
        Ok(Received { bytes, share: arriving.complete() })
    }
}
