//! End of the open streams of a connection that has reached its largest age: each ends with a gRPC status,
//! because a client cannot tell a closed connection from a failure of the network.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use api::error::Reason;
use bytes::Bytes;
use chassis::error::status;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Code, Status, body::Body};

/// Cancelled when the open streams of a connection end; an extension of its requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct StreamEnd(pub(crate) CancellationToken);

/// Body of a gRPC response, which ends with UNAVAILABLE (`CONNECTION_EXPIRED`) when its connection expires.
pub(crate) struct ExpiringBody {
    body: Body,
    end: Pin<Box<WaitForCancellationFutureOwned>>,
    has_ended: bool,
}

impl ExpiringBody {
    pub(crate) fn new(body: Body, end: StreamEnd) -> Self {
        Self { body, end: Box::pin(end.0.cancelled_owned()), has_ended: false }
    }
}

impl http_body::Body for ExpiringBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        match self.end.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                self.has_ended = true;
                self.body = Body::empty();
                Poll::Ready(Some(Ok(Frame::trailers(expired()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.body.is_end_stream() { self.body.size_hint() } else { SizeHint::default() }
    }
}

/// Returns the trailers of the status.
fn expired() -> HeaderMap {
    let message =
        "the connection has reached its largest age; open the stream again after the last message";
    let status = status(Code::Unavailable, Reason::ConnectionExpired, message, vec![]);
    let mut trailers = HeaderMap::new();
    // Fails for a message that is not valid in a header only.
    let _ = status.add_header(&mut trailers);
    trailers
}
