//! Foreign text: output of programs, commits and tools, cleaned and bounded before anything keeps it.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// Bytes of one line; the rest of a longer one is dropped.
pub(crate) const LINE_BYTES_MAX: usize = 4_096;

/// Ends a text that was longer.
const CUT: &str = " […]";

/// Text that the contract accepts: no control or format characters but line feeds, at most `max` bytes, with
/// a mark at its end if it was longer.
pub(crate) fn clean(text: &str, max: usize) -> String {
    let plain = |it: char| if is_plain(it) { it } else { ' ' };
    let mut cleaned = String::with_capacity(text.len().min(max));
    for character in text.chars().map(plain) {
        if cleaned.len() + character.len_utf8() > max {
            let room = (0..=max.saturating_sub(CUT.len())).rev();
            let end = room.into_iter().find(|it| cleaned.is_char_boundary(*it)).unwrap_or(0);
            cleaned.truncate(end);
            cleaned.push_str(CUT);
            break;
        }
        cleaned.push(character);
    }
    cleaned
}

/// Characters outside Unicode's category C ("other"), and line feeds.
fn is_plain(it: char) -> bool {
    let format = [
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
    let is_format = format.iter().any(|(first, last)| (first..=last).contains(&&it));
    it == '\n' || (!it.is_control() && !is_format)
}

/// Splits a stream of bytes into lines of at most [`LINE_BYTES_MAX`] bytes, in constant memory. Reading can
/// be cancelled between any two polls without a loss.
pub(crate) struct BoundedLines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
    is_cut: bool,
}

impl<R: AsyncRead + Unpin> BoundedLines<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader: BufReader::new(reader), line: vec![], is_cut: false }
    }

    /// The next line without its line feed; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> io::Result<Option<String>> {
        loop {
            let chunk = self.reader.fill_buf().await?;
            if chunk.is_empty() {
                let rest = !self.line.is_empty() || self.is_cut;
                return Ok(rest.then(|| self.take()));
            }
            let end = chunk.iter().position(|it| *it == b'\n');
            let part = &chunk[..end.unwrap_or(chunk.len())];
            let kept = part.len().min(LINE_BYTES_MAX.saturating_sub(self.line.len()));
            self.line.extend_from_slice(&part[..kept]);
            self.is_cut |= kept < part.len();
            let consumed = part.len() + usize::from(end.is_some());
            self.reader.consume(consumed);
            if end.is_some() {
                return Ok(Some(self.take()));
            }
        }
    }

    fn take(&mut self) -> String {
        let mut line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        if std::mem::take(&mut self.is_cut) {
            line.push_str(CUT);
        }
        line
    }
}

/// The first `max` bytes of a stream; the rest is read and dropped, so that its writer is not blocked.
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
    fn text_is_made_fit_for_the_contract() {
        assert_eq!(clean("a\u{7}b\nc\u{202e}d", 100), "a b\nc d");
        assert_eq!(clean("äöü", 6), "äöü");
        assert_eq!(clean("0123456789äöü", 13), "0123456 […]");
        assert!(clean(&"ä".repeat(1_000), 101).len() <= 101);
    }

    #[tokio::test]
    async fn long_lines_are_cut_and_the_next_line_is_whole() {
        let long = [&b"x".repeat(100_000)[..], b"\nnext\nlast"].concat();
        let mut lines = BoundedLines::new(&long[..]);
        let first = lines.next().await.unwrap().unwrap();
        assert_eq!(first.len(), LINE_BYTES_MAX + CUT.len());
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
