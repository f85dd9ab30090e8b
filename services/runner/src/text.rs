//! Untrusted text (output of programs, commits and tools): removes control characters and bounds its size.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// Maximum length of a line in bytes; longer lines are truncated.
pub(crate) const LINE_BYTES_MAX: usize = 4_096;

/// Suffix of truncated text.
const TRUNCATION_MARK: &str = " […]";

/// Returns text that the API accepts: control and format characters except line feeds become spaces, and
/// text longer than `max` bytes is truncated and marked.
pub(crate) fn clean(text: &str, max: usize) -> String {
    let printable = |it: char| if is_printable(it) { it } else { ' ' };
    let mut cleaned = String::with_capacity(text.len().min(max));
    for character in text.chars().map(printable) {
        if cleaned.len() + character.len_utf8() > max {
            let kept_max = max.saturating_sub(TRUNCATION_MARK.len());
            let kept = (0..=kept_max).rev().find(|it| cleaned.is_char_boundary(*it)).unwrap_or(0);
            cleaned.truncate(kept);
            cleaned.push_str(TRUNCATION_MARK);
            break;
        }
        cleaned.push(character);
    }
    cleaned
}

/// The same for text of one line: line feeds become spaces, too.
pub(crate) fn clean_line(text: &str, max: usize) -> String {
    clean(text, max).replace('\n', " ")
}

/// Returns true for line feeds and for characters outside Unicode's general category C (control, format,
/// private use).
fn is_printable(character: char) -> bool {
    let format_ranges = [
        ('\u{ad}', '\u{ad}'),
        ('\u{600}', '\u{605}'),
        ('\u{61c}', '\u{61c}'),
        ('\u{6dd}', '\u{6dd}'),
        ('\u{70f}', '\u{70f}'),
        ('\u{180e}', '\u{180e}'),
        ('\u{200b}', '\u{200f}'),
        ('\u{202a}', '\u{202e}'),
        ('\u{2060}', '\u{206f}'),
        ('\u{e000}', '\u{f8ff}'),
        ('\u{feff}', '\u{feff}'),
        ('\u{fff0}', '\u{fffb}'),
        ('\u{e0000}', '\u{10ffff}'),
    ];
    let is_format = format_ranges.iter().any(|(first, last)| (*first..=*last).contains(&character));
    character == '\n' || (!character.is_control() && !is_format)
}

/// Splits a byte stream into lines of at most [`LINE_BYTES_MAX`] bytes, in constant memory. Cancel-safe: a
/// dropped [`BoundedLines::next`] loses no data.
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
            let kept = part.len().min(LINE_BYTES_MAX.saturating_sub(self.line.len()));
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
        let mut line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        if std::mem::take(&mut self.is_truncated) {
            line.push_str(TRUNCATION_MARK);
        }
        line
    }
}

/// Returns the first `max` bytes of a stream. The rest is read and discarded, so that the writer is not
/// blocked by a full pipe.
pub(crate) async fn read_bounded(reader: impl AsyncRead + Unpin, max: usize) -> io::Result<String> {
    let mut bytes = vec![];
    let mut reader = reader.take(u64::try_from(max).unwrap_or(u64::MAX));
    reader.read_to_end(&mut bytes).await?;
    tokio::io::copy(&mut reader.into_inner(), &mut tokio::io::sink()).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_replaced_and_long_text_is_truncated() {
        assert_eq!(clean("a\u{7}b\nc\u{202e}d", 100), "a b\nc d");
        assert_eq!(clean("äöü", 6), "äöü");
        assert_eq!(clean("0123456789äöü", 13), "0123456 […]");
        assert!(clean(&"ä".repeat(1_000), 101).len() <= 101);
    }

    #[tokio::test]
    async fn long_lines_are_truncated_and_the_next_line_is_complete() {
        let long = [&b"x".repeat(100_000)[..], b"\nnext\nlast"].concat();
        let mut lines = BoundedLines::new(&long[..]);
        let first = lines.next().await.unwrap().unwrap();
        assert_eq!(first.len(), LINE_BYTES_MAX + TRUNCATION_MARK.len());
        assert_eq!(lines.next().await.unwrap().as_deref(), Some("next"));
        assert_eq!(lines.next().await.unwrap().as_deref(), Some("last"));
        assert_eq!(lines.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_bounded_read_drains_its_stream() {
        let mut source = &b"0123456789"[..];
        assert_eq!(read_bounded(&mut source, 4).await.unwrap(), "0123");
        assert!(source.is_empty());
    }
}
