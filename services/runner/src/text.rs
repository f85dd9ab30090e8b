//! Readers of foreign text (output of programs and tools) in bounded memory. Invalid UTF-8 is replaced by
//! U+FFFD.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// Maximum length of a line of a task's log, in bytes.
pub(crate) const LINE_BYTES_MAX: usize = 4_096;

/// Number of bytes that are read beyond a limit, so that a secret at the limit is recognized as a whole: the
/// longest value of a variable (32 KiB), percent-encoded.
pub(crate) const OVERLAP_BYTES: usize = 96 << 10;

/// Splits a byte stream into lines, in constant memory: of a line, [`LINE_BYTES_MAX`] and [`OVERLAP_BYTES`]
/// are kept. Cancel-safe: a dropped [`BoundedLines::next`] loses no data.
pub(crate) struct BoundedLines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
    is_truncated: bool,
}

impl<R: AsyncRead + Unpin> BoundedLines<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader: BufReader::new(reader), line: vec![], is_truncated: false }
    }

    /// Returns the next line without its line feed; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> io::Result<Option<String>> {
        loop {
            let chunk = self.reader.fill_buf().await?;
            if chunk.is_empty() {
                let has_rest = !self.line.is_empty() || self.is_truncated;
                return Ok(has_rest.then(|| self.take_line()));
            }
            let end = chunk.iter().position(|it| *it == b'\n');
            let part = &chunk[..end.unwrap_or(chunk.len())];
            let kept_max = LINE_BYTES_MAX + OVERLAP_BYTES;
            let kept = part.len().min(kept_max.saturating_sub(self.line.len()));
            self.line.extend_from_slice(&part[..kept]);
            self.is_truncated |= kept < part.len();
            let consumed = part.len() + usize::from(end.is_some());
            self.reader.consume(consumed);
            if end.is_some() {
                return Ok(Some(self.take_line()));
            }
        }
    }

    fn take_line(&mut self) -> String {
        self.is_truncated = false;
        String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned()
    }
}

/// Returns the first `max` bytes of a stream, up to the end of a line. The rest is read and discarded, so
/// that the writer is not blocked by a full pipe.
pub(crate) async fn read_bounded(reader: impl AsyncRead + Unpin, max: usize) -> io::Result<String> {
    let mut bytes = vec![];
    let mut reader = reader.take(u64::try_from(max).unwrap_or(u64::MAX));
    reader.read_to_end(&mut bytes).await?;
    let rest = tokio::io::copy(&mut reader.into_inner(), &mut tokio::io::sink()).await?;
    if rest > 0 {
        // Half a line could end with half a secret.
        bytes.truncate(bytes.iter().rposition(|it| *it == b'\n').unwrap_or(0));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_lines_are_truncated_and_the_next_line_is_complete() {
        let long = [&b"x".repeat(1_000_000)[..], b"\nnext\nl\xffst"].concat();
        let mut lines = BoundedLines::new(&long[..]);
        let first = lines.next().await.unwrap().unwrap();
        assert_eq!(first.len(), LINE_BYTES_MAX + OVERLAP_BYTES);
        assert_eq!(lines.next().await.unwrap().as_deref(), Some("next"));
        assert_eq!(lines.next().await.unwrap().as_deref(), Some("l\u{fffd}st"));
        assert_eq!(lines.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_bounded_read_drains_its_stream() {
        let mut source = &b"01\n2345\n6789"[..];
        assert_eq!(read_bounded(&mut source, 7).await.unwrap(), "01");
        assert!(source.is_empty());
        assert_eq!(read_bounded(&b"0123"[..], 4).await.unwrap(), "0123");
    }
}
