//! Commands of people beside the program of an environment: sessions, their number, and their end with the
//! program.
//!
//! | concept | file |
//! |---|---|
//! | commands in a sandbox | `sandboxed` |
//! | commands in a container | `contained` |
//! | input and output | `transfer` |

mod contained;
mod sandboxed;
mod transfer;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use api::project::{CommandLease, CommandRefusal};
use uuid::Uuid;

use self::{contained::ContainerSession, sandboxed::SandboxSession};
use super::{
    Processes, directory::EnvironmentDir, process_tree::ProcessTree, record::DesiredState,
};
use crate::driver::{CommandResult, CommandStreams};

/// Maximum number of sessions of an environment.
const SESSIONS_MAX: usize = 8;

/// Interval at which a session checks that its program still runs.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Type of the terminal (terminfo(5)), in the variable `TERM`.
const TERMINAL_TYPE: &str = "xterm-256color";

/// Shell command that executes a shell.
const SHELL: &str = "if [ -x /bin/bash ]; then exec /bin/bash; else exec /bin/sh; fi";

/// Numbers of the sessions of environments.
#[derive(Clone, Default)]
pub(super) struct Sessions(Arc<Mutex<HashMap<Uuid, usize>>>);

/// Reservation of a session.
struct SessionSlot {
    sessions: Sessions,
    environment_id: Uuid,
}

impl Sessions {
    /// Reserves a session; `None` if the environment has the maximum.
    fn reserve(&self, environment_id: Uuid) -> Option<SessionSlot> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(environment_id).or_default();
        if *count >= SESSIONS_MAX {
            return None;
        }
        *count += 1;
        Some(SessionSlot { sessions: self.clone(), environment_id })
    }
}

impl Drop for SessionSlot {
    fn drop(&mut self) {
        let mut counts = self.sessions.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.environment_id) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.environment_id);
            }
        }
    }
}

impl Processes {
    /// Runs a command where the program of an environment runs.
    pub(super) async fn run_session(
        &self,
        environment: &EnvironmentDir,
        command: &CommandLease,
        streams: CommandStreams,
    ) -> Result<CommandResult> {
        let refused = |it| Ok(CommandResult::Refused(it));
        let Some(_slot) = self.sessions.reserve(environment.id()) else {
            return refused(CommandRefusal::Limit);
        };
        let Some(program) = Self::running_program(environment).await else {
            return refused(CommandRefusal::NotRunning);
        };
        let Some(launch) = environment.launch().await else {
            return refused(CommandRefusal::NotRunning);
        };
        let Some(account) = self.sandbox.accounts.get(environment) else {
            return refused(CommandRefusal::Unsupported);
        };
        let (program, launch) = (&program, &launch);
        let status = if let Some(container) = program.container() {
            let session = ContainerSession { environment, program, container, account, launch };
            self.exec_in_container(session, command, streams).await?
        } else {
            let session = SandboxSession { environment, program, account, launch };
            self.run_in_sandbox(session, command, streams).await?
        };
        Ok(CommandResult::Exited(status))
    }

    /// Returns the program of an environment; `None` if none runs, or if it is paused.
    async fn running_program(environment: &EnvironmentDir) -> Option<ProcessTree> {
        let record = environment.record().await;
        let is_wanted = record.desired == DesiredState::Running;
        record.process.filter(|it| is_wanted && it.is_alive())
    }

    /// Waits until a program has ended, is replaced or paused.
    async fn until_stopped(environment: &EnvironmentDir, program: &ProcessTree) {
        while Self::running_program(environment).await.is_some_and(|it| it.pid() == program.pid()) {
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_has_a_maximum_of_sessions() {
        let sessions = Sessions::default();
        let id = Uuid::from_u128(1);
        let mut slots: Vec<_> = (0..SESSIONS_MAX).map(|_| sessions.reserve(id).unwrap()).collect();
        assert!(sessions.reserve(id).is_none());
        assert!(sessions.reserve(Uuid::from_u128(2)).is_some(), "another environment");
        slots.pop();
        slots.push(sessions.reserve(id).unwrap());
        drop(slots);
        assert!(sessions.0.lock().unwrap().is_empty());
    }
}
