//! Output of programs: the query of a reader, and the lines that a runner sends.

use api::project as pb;
use chassis::{
    Error, Result,
    foreign_text::{clean_line, is_plain_line},
};
use prost_types::Timestamp;
use uuid::Uuid;

/// Maximum length of a line, in bytes.
const LINE_BYTES_MAX: usize = 4_096;

const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// Fails for a query that can have no lines.
pub fn check_query(query: &pb::LogQuery) -> Result<()> {
    let Some(end) = query.end_time else { return Ok(()) };
    if query.follow {
        return Err(Error::invalid("query.end_time", "must be absent with `follow`"));
    }
    if query.start_time.is_some_and(|it| order(it) >= order(end)) {
        return Err(Error::invalid("query.end_time", "must be after start_time"));
    }
    Ok(())
}

/// Key in the order of time.
fn order(time: Timestamp) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

/// Returns the lines of a block as people may read them. A text without a time, or a time without a text, is
/// left out.
pub fn lines(block: &pb::LogBlock) -> Vec<pb::LogLine> {
    let is_id = Uuid::try_parse(&block.deployment_id).is_ok();
    let deployment_id = if is_id { block.deployment_id.as_str() } else { "" };
    let texts = block.text.split_inclusive(|it| *it == b'\n');
    let line = |(time_ns, text): (&i64, &[u8])| pb::LogLine {
        time: Some(time(*time_ns)),
        text: sanitize(text.strip_suffix(b"\n").unwrap_or(text)),
        deployment_id: deployment_id.to_owned(),
    };
    block.times_ns.iter().zip(texts).map(line).collect()
}

fn time(time_ns: i64) -> Timestamp {
    let nanos = i32::try_from(time_ns.rem_euclid(NANOS_PER_SECOND)).unwrap_or(0);
    Timestamp { seconds: time_ns.div_euclid(NANOS_PER_SECOND), nanos }
}

/// Returns the text of a line as people may read it.
fn sanitize(text: &[u8]) -> String {
    let is_clean = text.len() <= LINE_BYTES_MAX && is_plain_line(text);
    let text = String::from_utf8_lossy(text);
    if is_clean { text.into_owned() } else { clean_line(&text, LINE_BYTES_MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: i64) -> Timestamp {
        Timestamp { seconds, nanos: 0 }
    }

    #[test]
    fn a_query_ends_after_its_begin_and_does_not_follow() {
        let query = |start, end, follow| pb::LogQuery {
            start_time: Some(time(start)),
            end_time: Some(time(end)),
            follow,
            ..pb::LogQuery::default()
        };
        assert!(check_query(&query(1, 2, false)).is_ok());
        assert!(check_query(&query(2, 2, false)).is_err());
        assert!(check_query(&query(1, 2, true)).is_err());
        let endless = pb::LogQuery { end_time: None, ..query(1, 0, true) };
        assert!(check_query(&endless).is_ok());
    }

    #[test]
    fn lines_of_a_runner_are_cleaned() {
        let id = Uuid::nil().to_string();
        let block = |deployment_id: &str, times_ns: &[i64], text: &[u8]| pb::LogBlock {
            deployment_id: deployment_id.to_owned(),
            times_ns: times_ns.to_vec(),
            text: text.to_vec(),
        };
        let read = |block: &pb::LogBlock| -> Vec<_> {
            let line = |it: pb::LogLine| (it.time.unwrap(), it.text, it.deployment_id);
            lines(block).into_iter().map(line).collect()
        };
        let line = |seconds, nanos, text: &str, id: &str| {
            (Timestamp { seconds, nanos }, text.to_owned(), id.to_owned())
        };
        let hostile = block("../x", &[1_000_000_002], b"\x1b[31mred\x1b[0m\x07 \xff\n");
        assert_eq!(read(&hostile), [line(1, 2, "red \u{fffd}", "")]);
        let plain = block(&id, &[-1, 0, i64::MAX], b"a\n\nb");
        let last = line(9_223_372_036, 854_775_807, "b", &id);
        assert_eq!(read(&plain), [line(-1, 999_999_999, "a", &id), line(0, 0, "", &id), last]);
        assert_eq!(read(&block(&id, &[0], b"a\nb\n")).len(), 1);
        assert_eq!(read(&block(&id, &[0, 0], b"a\n")).len(), 1);
        assert_eq!(read(&block(&id, &[0], b"")).len(), 0);
    }
}
