//! Comma-separated values (RFC 4180), safe to open in a spreadsheet (AU-15).

use api::audit::Entry;
use chassis::moment;
use time::format_description::well_known::Rfc3339;

/// The columns, in their order.
pub(crate) const HEAD: [&str; 21] = [
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
];

/// The head line.
pub(crate) fn head() -> String {
    line(HEAD.iter().map(|it| (*it).to_owned()))
}

/// The line of one entry.
pub(crate) fn entry(entry: &Entry) -> String {
    let it = entry.envelope.clone().unwrap_or_default();
    let actor_kind = word(it.actor.as_ref().map(|it| it.kind().as_str_name()), "ACTOR_KIND_");
    let outcome = word(Some(it.outcome().as_str_name()), "OUTCOME_");
    let actor = it.actor.unwrap_or_default();
    let (resource, origin) = (it.resource.unwrap_or_default(), it.origin.unwrap_or_default());
    let changes = entry.changes.iter();
    let changes: Vec<_> =
        changes.map(|it| format!("{}: {} → {}", it.field, it.before, it.after)).collect();
    line([
        entry.index.to_string(),
        time(entry.receive_time),
        time(it.occur_time),
        it.id,
        entry.action.clone(),
        outcome,
        it.reason,
        actor_kind,
        actor.id,
        actor.name,
        actor.email,
        resource.kind,
        resource.id,
        resource.name,
        it.project_id,
        it.environment_id,
        origin.address,
        origin.user_agent,
        origin.method,
        origin.request_id,
        changes.join("; "),
    ])
}

fn word(name: Option<&str>, prefix: &str) -> String {
    name.unwrap_or_default().trim_start_matches(prefix).to_owned()
}

fn time(it: Option<prost_types::Timestamp>) -> String {
    it.and_then(moment).and_then(|it| it.format(&Rfc3339).ok()).unwrap_or_default()
}

fn line(cells: impl IntoIterator<Item = String>) -> String {
    let cells: Vec<_> = cells.into_iter().map(|it| cell(&it)).collect();
    cells.join(",") + "\r\n"
}

/// A cell: quoted where it must be, and never a formula.
fn cell(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\r', '\n', ';', '\t']) || text.starts_with(['\'', ' ']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AU-15: no cell is a formula, whatever people call themselves.
    #[test]
    fn no_cell_is_a_formula() {
        assert_eq!(cell("=1+1"), "\"'=1+1\"");
        assert_eq!(cell("@SUM(A1)"), "\"'@SUM(A1)\"");
        assert_eq!(cell("+49"), "\"'+49\"");
        assert_eq!(cell("-1"), "\"'-1\"");
        assert_eq!(cell("\tx"), "\"'\tx\"");
        assert_eq!(cell("a \"b\", c"), "\"a \"\"b\"\", c\"");
        assert_eq!(cell("plain"), "plain");
    }

    #[test]
    fn every_line_has_a_cell_for_every_column() {
        let line = entry(&Entry { action: "member.removed".to_owned(), ..Entry::default() });
        assert_eq!(line.matches(',').count(), HEAD.len() - 1);
        assert_eq!(head().matches(',').count(), HEAD.len() - 1);
    }
}
