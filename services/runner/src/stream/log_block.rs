//! Lines of a log as the project service receives them.

use api::project::{LogBlock, LogLine};

const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// Returns blocks with the lines of a batch: one for each row of lines of the same deployment.
pub(super) fn blocks(lines: &[LogLine]) -> impl Iterator<Item = LogBlock> {
    lines.chunk_by(|one, other| one.deployment_id == other.deployment_id).map(block)
}

fn block(lines: &[LogLine]) -> LogBlock {
    let mut text = Vec::with_capacity(lines.iter().map(|it| it.text.len() + 1).sum());
    for line in lines {
        text.extend_from_slice(line.text.as_bytes());
        text.push(b'\n');
    }
    LogBlock {
        deployment_id: lines.first().map(|it| it.deployment_id.clone()).unwrap_or_default(),
        times_ns: lines.iter().map(time_ns).collect(),
        text,
    }
}

fn time_ns(line: &LogLine) -> i64 {
    let time = line.time.unwrap_or_default();
    time.seconds.saturating_mul(NANOS_PER_SECOND).saturating_add(time.nanos.into())
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;

    #[test]
    fn a_block_has_the_lines_of_one_deployment() {
        let line = |seconds, deployment_id: &str, text: &str| LogLine {
            time: Some(Timestamp { seconds, nanos: 5 }),
            text: text.to_owned(),
            deployment_id: deployment_id.to_owned(),
        };
        let lines = [line(1, "a", "one"), line(2, "a", ""), line(3, "b", "three")];
        let block = |deployment_id: &str, times_ns: &[i64], text: &str| LogBlock {
            deployment_id: deployment_id.to_owned(),
            times_ns: times_ns.to_vec(),
            text: text.as_bytes().to_vec(),
        };
        let expected = [
            block("a", &[1_000_000_005, 2_000_000_005], "one\n\n"),
            block("b", &[3_000_000_005], "three\n"),
        ];
        assert_eq!(blocks(&lines).collect::<Vec<_>>(), expected);
        assert_eq!(blocks(&[]).count(), 0);
    }
}
