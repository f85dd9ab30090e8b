//! Output of containers, with the time of each line.

use anyhow::Result;
use bollard::{container::LogOutput, errors::Error, query_parameters::LogsOptionsBuilder};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use prost_types::Timestamp;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Docker, engine_error};

/// Maximum length of a line, in bytes; the rest is dropped. The engine splits longer ones.
const LINE_BYTES_MAX: usize = 256 << 10;

/// Part of the output of a container.
pub(crate) struct OutputQuery<'a> {
    /// Id of the container.
    pub(crate) id: &'a str,
    /// Number of lines, counted from the end; `None` for all.
    pub(crate) tail: Option<usize>,
    /// Begin in seconds of Unix time; 0 for all.
    pub(crate) since: i64,
    /// True to wait for new lines until the container ends.
    pub(crate) follow: bool,
}

/// A line of output.
pub(crate) struct OutputLine {
    pub(crate) time: Timestamp,
    /// Text without its line feed.
    pub(crate) text: Vec<u8>,
}

/// Lines of standard output and standard error that have no end yet.
#[derive(Default)]
struct Pending {
    stdout: Option<OutputLine>,
    stderr: Option<OutputLine>,
}

/// Reader of the output of containers.
#[derive(Clone)]
pub(crate) struct ContainerOutput(bollard::Docker);

impl Docker {
    /// Returns a reader of the output of containers.
    pub(crate) fn output(&self) -> ContainerOutput {
        ContainerOutput(self.client.clone())
    }
}

impl ContainerOutput {
    /// Returns the lines of a container's output, the oldest first.
    pub(crate) fn lines(
        &self,
        query: &OutputQuery<'_>,
    ) -> impl Stream<Item = Result<OutputLine>> + Send + use<'_> {
        let tail = query.tail.map_or_else(|| "all".to_owned(), |it| it.to_string());
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).timestamps(true);
        let options = options.follow(query.follow).tail(&tail);
        let options = options.since(i32::try_from(query.since).unwrap_or(0)).build();
        let parts = self.0.logs(query.id, Some(options));
        let state = (Box::pin(parts), Pending::default());
        stream::unfold(state, async |(mut parts, mut pending)| {
            let line = loop {
                match parts.next().await {
                    Some(Ok(part)) => {
                        if let Some(line) = pending.add(part) {
                            break Ok(line);
                        }
                    }
                    // Removed by somebody else, so its output is gone.
                    Some(Err(Error::DockerResponseServerError { status_code: 404, .. })) => {}
                    Some(Err(error)) => break Err(engine_error(error)),
                    None => break Ok(pending.stdout.take().or_else(|| pending.stderr.take())?),
                }
            };
            Some((line, (parts, pending)))
        })
    }
}

impl Pending {
    /// Adds a part of a line; returns the line if it is complete.
    fn add(&mut self, part: LogOutput) -> Option<OutputLine> {
        let of_errors = matches!(part, LogOutput::StdErr { .. });
        let pending = if of_errors { &mut self.stderr } else { &mut self.stdout };
        let bytes: Bytes = part.into_bytes();
        let end = bytes.iter().position(|it| *it == b' ')?;
        let time = std::str::from_utf8(&bytes[..end]).ok()?;
        let time = OffsetDateTime::parse(time, &Rfc3339).ok()?;
        let nanos = i32::try_from(time.nanosecond()).ok()?;
        let time = Timestamp { seconds: time.unix_timestamp(), nanos };
        let text = &bytes[end + 1..];
        let (text, is_complete) = text.strip_suffix(b"\n").map_or((text, false), |it| (it, true));
        let line = pending.get_or_insert_with(|| OutputLine { time, text: vec![] });
        let free = LINE_BYTES_MAX.saturating_sub(line.text.len());
        line.text.extend(&text[..text.len().min(free)]);
        if is_complete { pending.take() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_line_are_joined() {
        let mut pending = Pending::default();
        let part = |text: &'static str| LogOutput::StdOut { message: text.into() };
        let errors = |text: &'static str| LogOutput::StdErr { message: text.into() };
        assert!(pending.add(part("2026-11-28T06:38:00.5Z on")).is_none());
        let error = pending.add(errors("2026-11-28T06:38:01Z failed\n")).unwrap();
        assert_eq!((error.time.seconds, &*error.text), (1_795_847_881, &b"failed"[..]));
        let line = pending.add(part("2026-11-28T06:38:02Z e\n")).unwrap();
        assert_eq!(line.time, Timestamp { seconds: 1_795_847_880, nanos: 500_000_000 });
        assert_eq!(line.text, b"one");
    }
}
