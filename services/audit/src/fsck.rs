//! Deriving the whole log again from its entries, and naming what differs: with the verifier's code,
//! not with that which built it.

pub(crate) mod check;
pub(crate) mod rederive;
pub(crate) mod store;

use std::fmt;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Logs that were checked.
    pub trees: u64,
    /// Entries that were checked.
    pub entries: u64,
    /// Signed heads that were checked.
    pub heads: u64,
    /// What differs, one sentence each.
    pub differs: Vec<String>,
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for it in &self.differs {
            writeln!(f, "DIFFERS: {it}")?;
        }
        let (trees, entries, heads) = (self.trees, self.entries, self.heads);
        write!(f, "{trees} logs, {entries} entries, {heads} signed heads: ")?;
        match self.differs.len() {
            0 => writeln!(f, "everything is as it was signed"),
            n => writeln!(f, "{n} differences"),
        }
    }
}
