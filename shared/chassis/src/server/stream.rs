//! Server streams: while one runs, the credential and the permissions of its reader are checked every few
//! seconds (`Rule::recheck_interval`).

use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use time::OffsetDateTime;
use tokio::time::Instant;
use tonic::{Status, body::Body};

use crate::{Clock, access::Access, call::Context};

/// Body of a streaming response.
struct Stream {
    body: Body,
    context: Arc<Context>,
    access: Access,
    clock: Clock,
    /// Time of the last check, by the wall clock, which tests advance.
    checked_at: OffsetDateTime,
    /// Time of the last check, by the monotonic clock, which a change of the wall clock does not affect.
    checked_at_monotonic: Instant,
    ended: bool,
}

/// Wraps a body so that it ends with an error when its reader loses a permission that the call was admitted
/// with.
pub(super) fn revalidated(body: Body, context: Arc<Context>, access: Access, clock: Clock) -> Body {
    let stream = Stream {
        body,
        context,
        access,
        checked_at: clock.now(),
        checked_at_monotonic: Instant::now(),
        clock,
        ended: false,
    };
    let frames =
        stream::unfold(stream, async |mut stream| stream.next().await.map(|frame| (frame, stream)));
    Body::new(StreamBody::new(frames))
}

impl Stream {
    async fn next(&mut self) -> Option<Result<Frame<Bytes>, Status>> {
        if self.ended {
            return None;
        }
        let interval = self.context.rule.recheck_interval;
        loop {
            if self.start_check_if_due()
                && let Err(error) = self.access.revalidate(&self.context).await
            {
                self.ended = true;
                let head = Status::from(error).into_http::<Body>().into_parts().0;
                return Some(Ok(Frame::trailers(head.headers)));
            }
            tokio::select! {
                frame = self.body.frame() => return frame,
                () = tokio::time::sleep_until(self.checked_at_monotonic + interval) => {}
            }
        }
    }

    /// Returns true if a check is due by either clock, and then starts the interval until the next one.
    fn start_check_if_due(&mut self) -> bool {
        let interval = self.context.rule.recheck_interval;
        let now = self.clock.now();
        let now_monotonic = Instant::now();
        let is_due = (now - self.checked_at).unsigned_abs() >= interval
            || now_monotonic - self.checked_at_monotonic >= interval;
        if is_due {
            self.checked_at = now;
            self.checked_at_monotonic = now_monotonic;
        }
        is_due
    }
}
