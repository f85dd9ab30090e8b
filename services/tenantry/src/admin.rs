//! `tenantry admin`: calls of the AdminService of a process, with its answers as tables or as JSON.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::{client::Client, tools::print};

/// Arguments of `admin`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Socket of the process. Default: `admin.sock` in the data directory.
    #[arg(long, env = "TENANTRY_ADMIN_SOCKET")]
    socket: Option<PathBuf>,
    /// Data directory of the process.
    #[arg(long, env = "TENANTRY_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Prints the answer as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    operation: Operation,
}

#[derive(Subcommand)]
enum Operation {
    /// Shows version, services, readiness and settings.
    Process,
    /// Lists the queues with their lengths and the ages of their oldest entries.
    Queues,
    /// Lists the background jobs with their last outcomes.
    Jobs,
    /// Lists the dead letters: events whose reaction has failed eight times.
    DeadLetters {
        /// Only those of this service.
        #[arg(default_value = "")]
        service: String,
    },
    /// Handles a dead letter again.
    Replay(DeadLetter),
    /// Deletes a dead letter.
    Discard(DeadLetter),
    /// Stops the reactions of a service to events, on all replicas.
    Pause {
        /// `identity`, `project` or `invitation`.
        service: String,
    },
    /// Continues the reactions of a service.
    Resume {
        /// `identity`, `project` or `invitation`.
        service: String,
    },
    /// Shows the last checks of the whole audit log with their findings, and the logs in quarantine.
    Integrity,
    /// Starts a check of the whole audit log in the background.
    Fsck,
    /// Lists the sessions of an account that have not ended.
    Sessions {
        /// Id or e-mail address of the account.
        account: String,
    },
    /// Ends a session of an account, or all of them; its API keys stay.
    EndSessions {
        /// Id or e-mail address of the account.
        account: String,
        /// Id of the session. Default: all sessions of the account.
        #[arg(default_value = "")]
        session_id: String,
    },
    /// Replaces the filter of the log until the process ends.
    LogFilter {
        /// Directives in the syntax of `--log`, for example `info,project=debug`.
        filter: String,
    },
}

#[derive(clap::Args)]
struct DeadLetter {
    /// Service whose reaction failed.
    service: String,
    /// Id of the event.
    event_id: String,
}

/// A call of the AdminService.
struct AdminCall {
    method: &'static str,
    request: Value,
}

/// Calls the AdminService and prints its answer.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let socket = match (arguments.socket, arguments.data_dir) {
        (Some(socket), _) => socket,
        (None, Some(data_dir)) => data_dir.join("admin.sock"),
        (None, None) => host::default_data_dir()?.join("admin.sock"),
    };
    let client = Client::connect_to_socket(&socket).await?;
    let AdminCall { method, request } = call(arguments.operation);
    let answer = client.call_json(&format!("admin.v1.AdminService/{method}"), request).await?;
    if arguments.json {
        return print(&format!("{answer:#}\n"));
    }
    print(&text(&answer))
}

fn call(operation: Operation) -> AdminCall {
    let dead_letter = |it: DeadLetter| json!({ "service": it.service, "eventId": it.event_id });
    let (method, request) = match operation {
        Operation::Process => ("GetProcess", json!({})),
        Operation::Queues => ("ListQueues", json!({})),
        Operation::Jobs => ("ListJobs", json!({})),
        Operation::DeadLetters { service } => ("ListDeadLetters", json!({ "service": service })),
        Operation::Replay(it) => ("ReplayDeadLetter", dead_letter(it)),
        Operation::Discard(it) => ("DiscardDeadLetter", dead_letter(it)),
        Operation::Pause { service } => ("PauseConsumer", json!({ "service": service })),
        Operation::Resume { service } => ("ResumeConsumer", json!({ "service": service })),
        Operation::Integrity => ("GetIntegrity", json!({})),
        Operation::Fsck => ("RunFsck", json!({})),
        Operation::Sessions { account } => ("ListAccountSessions", json!({ "account": account })),
        Operation::EndSessions { account, session_id } => {
            ("EndAccountSessions", json!({ "account": account, "sessionId": session_id }))
        }
        Operation::LogFilter { filter } => ("SetLogFilter", json!({ "filter": filter })),
    };
    AdminCall { method, request }
}

/// Returns an answer as text: a line for each field and each sentence, and a table for each list of messages.
fn text(answer: &Value) -> String {
    let fields = answer.as_object().into_iter().flatten();
    let mut lines = String::new();
    let mut tables = String::new();
    for (name, value) in fields {
        match value.as_array() {
            Some(rows) if rows.iter().any(Value::is_object) => tables += &table(rows),
            Some(items) if items.iter().any(is_sentence) => {
                lines += &format!("{name}:\n");
                lines.extend(items.iter().map(|it| format!("  {}\n", cell(it))));
            }
            _ => lines += &format!("{name}: {}\n", cell(value)),
        }
    }
    if lines.is_empty() && tables.is_empty() {
        return "done\n".to_owned();
    }
    lines + &tables
}

fn is_sentence(item: &Value) -> bool {
    item.as_str().is_some_and(|it| it.contains(' '))
}

/// Returns messages as a table with one column for each field that one of them has.
fn table(rows: &[Value]) -> String {
    let mut names: Vec<&str> = vec![];
    for name in rows.iter().filter_map(Value::as_object).flat_map(serde_json::Map::keys) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let header = names.iter().map(|it| (*it).to_owned()).collect();
    let cells = |row: &Value| names.iter().map(|name| cell(&row[*name])).collect();
    let lines: Vec<Vec<String>> = std::iter::once(header).chain(rows.iter().map(cells)).collect();
    let width = |column: usize| lines.iter().map(|it| it[column].chars().count()).max();
    let widths: Vec<usize> = (0..names.len()).map(|it| width(it).unwrap_or_default()).collect();
    let padded = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    lines.iter().map(padded).collect()
}

/// Returns a value on one line.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.split_whitespace().collect::<Vec<_>>().join(" "),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_table() {
        let answer = json!({ "queues": [
            { "service": "audit", "name": "outbox" },
            { "service": "identity", "name": "mail", "waiting": "2" },
        ] });
        let expected = "name    service   waiting\noutbox  audit\nmail    identity  2\n";
        assert_eq!(text(&answer), expected);
        assert_eq!(text(&json!({ "filter": "info" })), "filter: info\n");
        let answer = json!({ "findings": ["one thing", "another"], "services": ["a", "b"] });
        assert_eq!(text(&answer), "findings:\n  one thing\n  another\nservices: a, b\n");
    }
}
