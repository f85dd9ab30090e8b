//! Lines of a log: a label of TAI64N, a space, and the text.

use std::mem::replace;

use memchr::memchr_iter;
use prost_types::Timestamp;

use crate::docker::OutputLine;

/// Length of a label: `@` and 24 hexadecimal digits.
const LABEL_BYTES: usize = 25;

/// First second of Unix time as a label of TAI64. `multilog` adds 10 s to Unix time, and no leap seconds.
const EPOCH: u64 = (1 << 62) + 10;

/// A line of a program's output.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RawLine<'a> {
    /// Time at which it was received.
    pub(super) time: Timestamp,
    /// Text without its line feed.
    pub(super) text: &'a [u8],
}

impl<'a> RawLine<'a> {
    /// Parses a line; `None` for the rest of a line that began in another file.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        let (label, text) = line.split_at_checked(LABEL_BYTES)?;
        let text = text.strip_prefix(b" ")?;
        let digits = std::str::from_utf8(label.strip_prefix(b"@")?).ok()?;
        let seconds = u64::from_str_radix(digits.get(..16)?, 16).ok()?;
        let nanos = u32::from_str_radix(digits.get(16..)?, 16).ok()?;
        let time = Timestamp {
            seconds: i64::try_from(seconds.checked_sub(EPOCH)?).ok()?,
            nanos: i32::try_from(nanos).ok().filter(|it| *it < 1_000_000_000)?,
        };
        Some(Self { time, text })
    }

    /// Appends the line to a log.
    pub(super) fn write(&self, log: &mut Vec<u8>) {
        let seconds = EPOCH.saturating_add_signed(self.time.seconds);
        log.extend(format!("@{seconds:016x}{:08x} ", self.time.nanos).into_bytes());
        log.extend(self.text);
        log.push(b'\n');
    }
}

impl OutputLine {
    pub(super) fn as_raw(&self) -> RawLine<'_> {
        RawLine { time: self.time, text: &self.text }
    }
}

/// Returns the lines of a log, without their line feeds.
pub(super) fn lines(log: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut begin = 0;
    memchr_iter(b'\n', log)
        .chain([log.len()])
        .map(move |end| &log[replace(&mut begin, end + 1)..end])
}

/// [`lines`] from the last one to the first one.
pub(super) fn lines_from_end(log: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut end = log.len();
    let begins = memchr_iter(b'\n', log).rev().map(|it| it + 1).chain([0]);
    begins.map(move |begin| &log[begin..replace(&mut end, begin.saturating_sub(1))])
}

/// Returns the time at which a file was full, from its name.
pub(super) fn time_of_name(name: &str) -> Option<Timestamp> {
    let label = format!("{} ", name.get(..LABEL_BYTES)?);
    RawLine::parse(label.as_bytes()).map(|it| it.time)
}

/// Removes the labels of lines.
pub(super) fn without_stamps(log: &[u8]) -> Vec<u8> {
    let mut output = Vec::with_capacity(log.len());
    for line in log.split_inclusive(|it| *it == b'\n') {
        output.extend(RawLine::parse(line).map_or(line, |it| it.text));
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_from_both_ends() {
        for log in ["", "\n", "a", "a\n", "\na", "a\n\nbc\nd", "a\nb\n"] {
            let expected: Vec<_> = log.split('\n').map(str::as_bytes).collect();
            assert_eq!(lines(log.as_bytes()).collect::<Vec<_>>(), expected);
            let mut from_end: Vec<_> = lines_from_end(log.as_bytes()).collect();
            from_end.reverse();
            assert_eq!(from_end, expected);
        }
    }

    #[test]
    fn lines_have_the_time_of_multilog() {
        // 2026-11-28 06:38:00 UTC.
        let line = RawLine::parse(b"@400000006b0a76d210ed1394 last").unwrap();
        assert_eq!(line.time, Timestamp { seconds: 1_795_847_880, nanos: 283_972_500 });
        assert_eq!(line.text, b"last");
        let mut log = vec![];
        line.write(&mut log);
        assert_eq!(log, b"@400000006b0a76d210ed1394 last\n");
        assert_eq!(without_stamps(&log), b"last\n");
        for other in ["", "last", "@400000006b0a76d210ed139 x", "@zz0000006b0a76d210ed1394 x"] {
            assert_eq!(RawLine::parse(other.as_bytes()), None);
        }
    }
}
