//! Entries as comma-separated values (RFC 4180), safe to open in a spreadsheet (AU-15). The file begins with
//! a byte order mark, by which spreadsheets recognize UTF-8.

use chassis::datetime;
use data_encoding::HEXLOWER;
use time::format_description::well_known::Rfc3339;

use super::record::Record;

/// Byte order mark of UTF-8.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Columns, in order.
const COLUMNS: [&str; 30] = [
    "index",
    "receive_time",
    "occur_time",
    "event_id",
    "action",
    "outcome",
    "reason",
    "actor_kind",
    "actor_id",
    "actor_name",
    "actor_email",
    "resource_kind",
    "resource_id",
    "resource_name",
    "project_id",
    "environment_id",
    "address",
    "user_agent",
    "method",
    "request_id",
    "changes",
    "event",
    "org_id",
    "source",
    "sequence",
    "parent_event_id",
    "credential_id",
    "traceparent",
    "flags",
    "leaf_hash",
];

/// Returns the byte order mark and the header line.
pub(super) fn header() -> String {
    format!("{BYTE_ORDER_MARK}{}", join_cells(COLUMNS.iter().map(|it| (*it).to_owned())))
}

/// Returns the line of one entry.
pub(super) fn line(record: &Record) -> String {
    let entry = &record.entry;
    let envelope = record.envelope.clone();
    let actor_kind = envelope.actor.as_ref().map(|it| it.kind().as_str_name());
    let actor_kind = without_prefix(actor_kind.unwrap_or_default(), "ACTOR_KIND_");
    let outcome = without_prefix(envelope.outcome().as_str_name(), "OUTCOME_");
    let actor = envelope.actor.unwrap_or_default();
    let resource = envelope.resource.unwrap_or_default();
    let origin = envelope.origin.unwrap_or_default();
    let changes = entry.changes.iter();
    let changes: Vec<_> =
        changes.map(|it| format!("{}: {} → {}", it.field, it.before, it.after)).collect();
    join_cells([
        entry.index.to_string(),
        format_time(entry.receive_time),
        format_time(envelope.occur_time),
        envelope.id,
        entry.action.clone(),
        outcome,
        envelope.reason,
        actor_kind,
        actor.id,
        actor.name,
        actor.email,
        resource.kind,
        resource.id,
        resource.name,
        envelope.project_id,
        envelope.environment_id,
        origin.address,
        origin.user_agent,
        origin.method,
        origin.request_id,
        changes.join("; "),
        record.event.to_string(),
        envelope.org_id,
        envelope.source,
        envelope.sequence.to_string(),
        envelope.parent_event_id,
        actor.credential_id,
        origin.traceparent,
        entry.flags.join("; "),
        HEXLOWER.encode(&entry.leaf_hash),
    ])
}

fn without_prefix(enum_name: &str, prefix: &str) -> String {
    enum_name.trim_start_matches(prefix).to_owned()
}

fn format_time(timestamp: Option<prost_types::Timestamp>) -> String {
    let time = timestamp.and_then(datetime);
    time.and_then(|it| it.format(&Rfc3339).ok()).unwrap_or_default()
}

fn join_cells(cells: impl IntoIterator<Item = String>) -> String {
    let cells: Vec<_> = cells.into_iter().map(|it| escape_cell(&it)).collect();
    cells.join(",") + "\r\n"
}

/// Quotes a cell if necessary, and prefixes a formula with an apostrophe, so that a spreadsheet does not run
/// it.
fn escape_cell(text: &str) -> String {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if is_formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\r', '\n', ';', '\t']) || text.starts_with(['\'', ' ']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AU-15: no cell is run as a formula by a spreadsheet.
    #[test]
    fn no_cell_is_a_formula() {
        assert_eq!(escape_cell("=1+1"), "\"'=1+1\"");
        assert_eq!(escape_cell("@SUM(A1)"), "\"'@SUM(A1)\"");
        assert_eq!(escape_cell("+49"), "\"'+49\"");
        assert_eq!(escape_cell("-1"), "\"'-1\"");
        assert_eq!(escape_cell("\tx"), "\"'\tx\"");
        assert_eq!(escape_cell("a \"b\", c"), "\"a \"\"b\"\", c\"");
        assert_eq!(escape_cell("plain"), "plain");
    }
}
