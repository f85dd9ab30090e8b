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

/// Returns a line as people may read it.
pub fn sanitize(line: pb::LogLine) -> pb::LogLine {
    let is_id = Uuid::try_parse(&line.deployment_id).is_ok();
    let is_clean = line.text.len() <= LINE_BYTES_MAX && is_plain_line(line.text.as_bytes());
    pb::LogLine {
        time: line.time,
        text: if is_clean { line.text } else { clean_line(&line.text, LINE_BYTES_MAX) },
        deployment_id: if is_id { line.deployment_id } else { String::new() },
    }
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
        let line = pb::LogLine {
            time: Some(time(1)),
            text: "\u{1b}[31mred\u{1b}[0m\u{7}".to_owned(),
            deployment_id: "../x".to_owned(),
        };
        let clean = sanitize(line);
        assert_eq!((clean.text.as_str(), clean.deployment_id.as_str()), ("red", ""));
    }
}
