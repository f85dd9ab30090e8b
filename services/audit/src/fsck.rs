//! Consistency check of the stored log: rebuilds every tree from its entries with the verifier's code, which
//! is independent of the code that built the log, and lists the differences.

pub(crate) mod check;
mod rebuild;
mod store;

use std::fmt;

/// Result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Trees that were checked.
    pub trees: u64,
    /// Entries that were checked.
    pub entries: u64,
    /// Checkpoints that were checked.
    pub checkpoints: u64,
    /// Differences, one sentence each.
    pub differences: Vec<String>,
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for difference in &self.differences {
            writeln!(f, "DIFFERS: {difference}")?;
        }
        let Self { trees, entries, checkpoints, differences } = self;
        write!(f, "{trees} trees, {entries} entries, {checkpoints} checkpoints: ")?;
        match differences.len() {
            0 => writeln!(f, "no differences"),
            1 => writeln!(f, "1 difference"),
            count => writeln!(f, "{count} differences"),
        }
    }
}
