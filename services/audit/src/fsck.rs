//! Consistency check of the stored log: rebuilds every tree from its entries with the verifier's code, which
//! is independent of the code that built the log, and lists the differences.

pub(crate) mod check;
mod decoded_entry;
pub(crate) mod job;
mod rebuild;
pub(crate) mod release;
mod schedule;
mod store;
pub(crate) mod subject_keys;
mod tile_window;

use std::{collections::BTreeMap, fmt};

use uuid::Uuid;

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
    /// Keys of people that cannot be decrypted, one sentence each.
    pub unreadable_keys: Vec<String>,
    /// First difference of each tree that has any, by organization.
    pub damaged: BTreeMap<Uuid, String>,
    /// Trees in quarantine, and the stop of signing, with their causes, one sentence each.
    pub restrictions: Vec<String>,
    /// Restrictions that were lifted, because the trees have no differences, one sentence each.
    pub released: Vec<String>,
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for difference in &self.differences {
            writeln!(f, "DIFFERS: {difference}")?;
        }
        for key in &self.unreadable_keys {
            writeln!(f, "UNREADABLE: {key}")?;
        }
        for restriction in &self.restrictions {
            writeln!(f, "RESTRICTED: {restriction}")?;
        }
        for released in &self.released {
            writeln!(f, "RELEASED: {released}")?;
        }
        let Self { trees, entries, checkpoints, differences, .. } = self;
        write!(f, "{trees} trees, {entries} entries, {checkpoints} checkpoints: ")?;
        match differences.len() {
            0 => writeln!(f, "no differences"),
            1 => writeln!(f, "1 difference"),
            count => writeln!(f, "{count} differences"),
        }
    }
}
