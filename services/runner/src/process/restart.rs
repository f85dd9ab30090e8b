//! Restarts of programs that ended unexpectedly: delays between them, and their bound.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::limits::MemoryLimitExceeded;

/// Time that a program must run before its earlier restarts no longer count towards [`RESTARTS_MAX`].
const CALM_PERIOD: Duration = Duration::from_secs(600);

/// Maximum number of restarts without a calm period in between. A program that ends again is not restarted.
pub(super) const RESTARTS_MAX: u32 = 5;

/// Restarts of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct RestartHistory {
    /// Number of restarts since a task started the program.
    pub(super) total: u32,
    /// Number of restarts without a calm period in between.
    pub(super) recent: u32,
    /// Exit code of the main program when it last ended, if it is known.
    pub(super) last_exit_code: Option<i32>,
    /// Memory limit in MiB; `None` if the program has not exceeded it without a calm period since.
    exceeded_memory_mb: Option<u32>,
    /// Time of the last start, in seconds since 1970.
    started_at: u64,
    /// Time at which the end of the program was noticed, in seconds since 1970; `None` while it runs.
    ended_at: Option<u64>,
}

/// Reaction to the end of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    Restart,
    /// The delay before the next restart has not passed.
    Wait,
    /// The program has ended too often.
    Fail,
}

/// End of a program.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ProgramEnd {
    /// Exit code of the main program, if it is known.
    pub(super) exit_code: Option<i32>,
    /// Memory limit in MiB, if the program exceeded it.
    pub(super) exceeded_memory_mb: Option<u32>,
}

impl RestartHistory {
    /// History of a program that a task has started. The last exit code is kept for people.
    pub(super) fn started(&self, now: u64) -> Self {
        let last_exit_code = self.last_exit_code;
        Self { last_exit_code, started_at: now, ..Self::default() }
    }

    /// Records the end of the program. Returns false if it is already recorded.
    pub(super) fn record_end(&mut self, now: u64, end: ProgramEnd) -> bool {
        if self.ended_at.is_some() {
            return false;
        }
        if now.saturating_sub(self.started_at) >= CALM_PERIOD.as_secs() {
            self.recent = 0;
            self.exceeded_memory_mb = None;
        }
        self.ended_at = Some(now);
        self.last_exit_code = end.exit_code.or(self.last_exit_code);
        // Engines do not report every kill.
        self.exceeded_memory_mb = end.exceeded_memory_mb.or(self.exceeded_memory_mb);
        true
    }

    /// Records a restart, before it is known to succeed.
    pub(super) fn record_restart(&mut self, now: u64) {
        self.total += 1;
        self.recent += 1;
        self.started_at = now;
        self.ended_at = None;
    }

    /// Returns the reaction to a recorded end. The first restart is immediate; the delay before the others
    /// doubles: 1, 2, 4, … seconds.
    pub(super) fn reaction(&self, now: u64) -> Reaction {
        let delay = self.recent.checked_sub(1).map_or(0, |it| 1 << it.min(RESTARTS_MAX));
        match self.ended_at {
            _ if self.recent >= RESTARTS_MAX => Reaction::Fail,
            Some(ended_at) if now < ended_at + delay => Reaction::Wait,
            _ => Reaction::Restart,
        }
    }

    /// Description of the failure for people.
    pub(super) fn failure(&self) -> String {
        let minutes = CALM_PERIOD.as_secs() / 60;
        let exit_code = match self.last_exit_code {
            Some(code) => format!("; its last exit code is {code}"),
            None => String::new(),
        };
        let memory = match self.exceeded_memory_mb {
            Some(limit_mb) => format!("; {}", MemoryLimitExceeded::Program { limit_mb }),
            None => String::new(),
        };
        format!(
            "the program was restarted {RESTARTS_MAX} times without running for {minutes} minutes, and \
             ended again{exit_code}{memory}; start or deploy the environment when the cause is repaired"
        )
    }
}

/// Current time in seconds since 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "the runner has no clock of a suite; tests do not move it"
)]
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(exit_code: i32) -> ProgramEnd {
        ProgramEnd { exit_code: Some(exit_code), exceeded_memory_mb: None }
    }

    /// Lets a program that runs `seconds` end again and again; returns the number of its restarts.
    fn restarts_of_crash_loop(seconds: u64, crashes: u32) -> (u32, Reaction) {
        let mut now = 1_000_000;
        let mut history = RestartHistory::default().started(now);
        for _ in 0..crashes {
            now += seconds;
            assert!(history.record_end(now, ended(7)));
            while history.reaction(now) == Reaction::Wait {
                now += 1;
            }
            if history.reaction(now) == Reaction::Fail {
                return (history.total, Reaction::Fail);
            }
            history.record_restart(now);
        }
        (history.total, Reaction::Restart)
    }

    /// A program that ends every seven seconds is not restarted for ever; one that ends every hour is.
    #[test]
    fn a_crash_loop_ends_at_its_bound() {
        assert_eq!(restarts_of_crash_loop(7, 100), (RESTARTS_MAX, Reaction::Fail));
        assert_eq!(restarts_of_crash_loop(0, 100), (RESTARTS_MAX, Reaction::Fail));
        assert_eq!(restarts_of_crash_loop(3_600, 100), (100, Reaction::Restart));
    }

    #[test]
    fn the_delay_doubles_and_begins_at_the_end() {
        let mut history = RestartHistory::default().started(0);
        let mut delays = vec![];
        let mut now = 0;
        for _ in 0..RESTARTS_MAX {
            now += 100;
            assert!(history.record_end(now, ProgramEnd::default()));
            assert!(!history.record_end(now, ProgramEnd::default()), "the same end");
            let ended_at = now;
            while history.reaction(now) == Reaction::Wait {
                now += 1;
            }
            delays.push(now - ended_at);
            history.record_restart(now);
        }
        assert_eq!(delays, [0, 1, 2, 4, 8]);
    }

    #[test]
    fn a_start_by_a_task_begins_a_new_series() {
        let mut history = RestartHistory::default().started(0);
        history.record_end(1, ended(137));
        history.record_restart(1);
        assert!(!history.failure().contains("memory"));
        history.record_end(2, ProgramEnd { exceeded_memory_mb: Some(256), ..ended(137) });
        assert!(
            history.failure().contains("exceeded the memory limit of its environment, 256 MiB")
        );
        history.record_restart(3);
        history.record_end(4, ended(137));
        assert!(history.failure().contains("256 MiB"), "a kill that the engine did not report");
        history.record_restart(5);
        history.record_end(5 + CALM_PERIOD.as_secs(), ended(137));
        assert!(!history.failure().contains("256 MiB"), "after a calm period");
        let started = history.started(2);
        assert_eq!((started.total, started.recent, started.last_exit_code), (0, 0, Some(137)));
    }
}
