//! Findings of `doctor`, as lines for people and as JSON.

use std::fmt::Write;

use serde::Serialize;

/// Outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing to do.
    Ok,
    /// The process starts, but something differs from what is recommended for production.
    Warning,
    /// The process does not start, or a part of it does not work.
    Error,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Outcome of a check, with its cause and remedy.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Subject of the check, for example `mail server`.
    pub check: &'static str,
    /// Outcome.
    pub level: Level,
    /// State, or cause and remedy.
    pub message: String,
}

/// Outcomes of all checks, in their order.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The outcomes.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Adds a finding.
    pub fn add(&mut self, check: &'static str, level: Level, message: impl Into<String>) {
        self.findings.push(Finding { check, level, message: message.into() });
    }

    /// Adds the outcome of a step of the start; returns its value. `describe`: message of a success.
    pub fn step<T>(
        &mut self,
        check: &'static str,
        outcome: anyhow::Result<T>,
        describe: impl FnOnce(&T) -> String,
    ) -> Option<T> {
        match outcome {
            Ok(value) => {
                self.add(check, Level::Ok, describe(&value));
                Some(value)
            }
            Err(error) => {
                self.add(check, Level::Error, format!("{error:#}"));
                None
            }
        }
    }

    /// Number of findings with a level.
    pub fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|it| it.level == level).count()
    }

    /// One line for each finding: level, check, message.
    pub fn text(&self) -> String {
        let width = self.findings.iter().map(|it| it.check.len()).max().unwrap_or_default();
        let mut text = String::new();
        for Finding { check, level, message } in &self.findings {
            let level = level.as_str();
            let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
            // Writing to a string does not fail.
            let _ = writeln!(text, "{level:7}  {check:width$}  {message}");
        }
        text
    }
}
