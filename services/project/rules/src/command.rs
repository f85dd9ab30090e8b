//! Commands that people run beside the program of an environment: their conditions, and the events about a
//! session.

pub mod wire;

use api::{
    error::Reason,
    project::{self as pb, CommandEnd},
};
use chassis::{Changed, Code, Refusal, foreign_text::clean_line};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{environment::Environment, types::ServerId};

/// Maximum length of a command in an event, in bytes.
const COMMAND_BYTES_MAX: usize = 1_000;

/// Refusals to run a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the environment is {0}, and no program runs in it; start it, then run the command")]
    NotRunning(&'static str),
    #[error("the environment has 8 sessions, which is the limit; end one, then retry")]
    Limit,
    #[error(
        "the runner of the server cannot run commands; it must be root, with isolation of environments"
    )]
    NotSupported(ServerId),
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::NotRunning(_) | Self::NotSupported(_) => Code::FailedPrecondition,
            Self::Limit => Code::ResourceExhausted,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::NotRunning(_) => Reason::InvalidState,
            Self::Limit => Reason::CommandLimitReached,
            Self::NotSupported(_) => Reason::CommandNotRun,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::NotRunning(state) => vec![("state", (*state).to_owned())],
            Self::Limit => vec![],
            Self::NotSupported(server_id) => vec![("server_id", server_id.to_string())],
        }
    }
}

/// A command that a person runs in an environment.
#[derive(Clone, Debug)]
pub struct Session {
    /// Id of the session, and of the stream of its output.
    pub id: Uuid,
    /// The environment at the start.
    pub environment: Environment,
    /// Server on which the program runs.
    pub server_id: ServerId,
    /// Command as events have it: quoted, cleaned and truncated.
    command: String,
    has_terminal: bool,
    started_at: OffsetDateTime,
}

/// End of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionEnd {
    pub cause: CommandEnd,
    /// Exit status; `None` if the command did not end by itself.
    pub status: Option<i32>,
}

impl Session {
    /// Creates a session. Fails if no program runs in the environment.
    pub fn new(
        environment: Environment,
        command: &pb::CommandLease,
        now: OffsetDateTime,
    ) -> Result<Self, Refused> {
        let server_id = environment.server_id.filter(|_| environment.serves());
        let server_id = server_id.ok_or(Refused::NotRunning(environment.state.as_str()))?;
        let words: Vec<_> = command.arguments.iter().map(|it| quote(it)).collect();
        Ok(Self {
            id: chassis::id::new(),
            environment,
            server_id,
            command: clean_line(&words.join(" "), COMMAND_BYTES_MAX),
            has_terminal: command.terminal_size.is_some(),
            started_at: now,
        })
    }

    /// Returns the event before the start of the command.
    pub fn started(&self) -> Changed<()> {
        let event = pb::EnvironmentCommandStarted {
            environment: Some((&self.environment).into()),
            session: Some(self.to_wire()),
        };
        Changed::new((), &event, self.environment.event_target())
    }

    /// Returns the event after its end.
    pub fn ended(&self, end: SessionEnd, now: OffsetDateTime) -> Changed<()> {
        let duration_ms = (now - self.started_at).whole_milliseconds().max(0);
        let session = pb::CommandSession {
            exit: end.status.map(|status| pb::CommandExit { status }),
            duration_ms: i64::try_from(duration_ms).unwrap_or(i64::MAX),
            end: end.cause.into(),
            ..self.to_wire()
        };
        let environment = Some((&self.environment).into());
        let event = pb::EnvironmentCommandEnded { environment, session: Some(session) };
        Changed::new((), &event, self.environment.event_target())
    }

    fn to_wire(&self) -> pb::CommandSession {
        pb::CommandSession {
            id: self.id.to_string(),
            command: self.command.clone(),
            has_terminal: self.has_terminal,
            ..pb::CommandSession::default()
        }
    }
}

/// Quotes a word as for a shell, unless it has only characters without a meaning there.
fn quote(word: &str) -> String {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || "@%+=:,./_-".contains(it);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::{State, lifecycle::tests::environment};

    fn session(arguments: &[&str]) -> Session {
        let command = pb::CommandLease {
            arguments: arguments.iter().map(|it| (*it).to_owned()).collect(),
            terminal_size: None,
        };
        let running =
            Environment { server_id: Some(ServerId(Uuid::nil())), ..environment(State::Running) };
        Session::new(running, &command, OffsetDateTime::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn an_event_has_the_command_as_a_shell_reads_it() {
        let command = |arguments: &[&str]| session(arguments).command;
        assert_eq!(command(&[]), "");
        assert_eq!(command(&["ps", "aux"]), "ps aux");
        assert_eq!(command(&["sh", "-c", "echo 'a'"]), r"sh -c 'echo '\''a'\'''");
        assert_eq!(command(&["printf", "\u{1b}[31m", ""]), "printf '' ''");
        assert!(!command(&["git", "pull", "https://u:secret@x"]).contains("secret"));
        assert!(command(&["x".repeat(5_000).as_str()]).len() <= COMMAND_BYTES_MAX);
    }

    #[test]
    fn a_command_needs_a_running_program() {
        let command = pb::CommandLease::default();
        let now = OffsetDateTime::UNIX_EPOCH;
        let stopped =
            Environment { server_id: Some(ServerId(Uuid::nil())), ..environment(State::Stopped) };
        let refused = Session::new(stopped, &command, now).unwrap_err();
        assert_eq!(refused, Refused::NotRunning("STOPPED"));
    }
}
