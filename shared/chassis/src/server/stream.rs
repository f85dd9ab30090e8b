//! Server streams: as long as one runs, the rights of its reader are checked again and again, whichever
//! method it is of.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use time::OffsetDateTime;
use tokio::time::Instant;
use tonic::{Status, body::Body};

use crate::{Clock, access::Access, call::Context};

/// Interval of the checks of the reader's rights.
const REVALIDATE_EVERY: Duration = Duration::from_secs(5);

/// The body of a streaming answer.
struct Stream {
    body: Body,
    context: Arc<Context>,
    access: Access,
    clock: Clock,
    /// By the wall clock and by the machine's, whichever comes first: neither may stand still.
    checked_at: (OffsetDateTime, Instant),
    ended: bool,
}

/// A body that ends with an error once its reader has lost a right that the call was let in with.
pub(super) fn revalidated(body: Body, context: Arc<Context>, access: Access, clock: Clock) -> Body {
    let checked_at = (clock.now(), Instant::now());
    let stream = Stream { body, context, access, clock, checked_at, ended: false };
    let frames = stream::unfold(stream, async |mut it| it.next().await.map(|frame| (frame, it)));
    Body::new(StreamBody::new(frames))
}

impl Stream {
    async fn next(&mut self) -> Option<Result<Frame<Bytes>, Status>> {
        if self.ended {
            return None;
        }
        loop {
            if self.is_due()
                && let Err(error) = self.access.revalidate(&self.context).await
            {
                self.ended = true;
                let head = Status::from(error).into_http::<Body>().into_parts().0;
                return Some(Ok(Frame::trailers(head.headers)));
            }
            tokio::select! {
                frame = self.body.frame() => return frame,
                () = tokio::time::sleep_until(self.checked_at.1 + REVALIDATE_EVERY) => {}
            }
        }
    }

    /// True if the rights are to be checked now; they count as checked from now on.
    fn is_due(&mut self) -> bool {
        let now = (self.clock.now(), Instant::now());
        let due = (now.0 - self.checked_at.0).unsigned_abs() >= REVALIDATE_EVERY
            || now.1 - self.checked_at.1 >= REVALIDATE_EVERY;
        if due {
            self.checked_at = now;
        }
        due
    }
}
