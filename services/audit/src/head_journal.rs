//! Journal of signed tree heads: the newest signed size and root of each tree, in a file beside the database.
//! A database that was restored or modified cannot make the signer sign a second history.

use std::{
    collections::HashMap,
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use chassis::key::write_private;
use data_encoding::BASE64;
use uuid::Uuid;

use crate::merkle::Hash;

const FILE_NAME: &str = "audit.signed";

/// Size and root of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TreeHead {
    pub(crate) size: u64,
    pub(crate) root: Hash,
}

/// The newest signed head of each tree, by organization.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeadJournal(HashMap<Uuid, TreeHead>);

/// Refusal to sign a tree head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadRefusal {
    /// The tree has fewer entries than were signed.
    #[error(
        "the tree has {size} entries, but {signed} were signed: the database was restored from a backup, or \
         entries were deleted"
    )]
    RolledBack {
        /// Entries in the database.
        size: u64,
        /// Signed entries.
        signed: u64,
    },
    /// The tree does not continue the signed head.
    #[error("the first {signed} entries differ from those that were signed: the log was rewritten")]
    Rewritten {
        /// Signed entries.
        signed: u64,
    },
}

impl HeadJournal {
    /// Reads the journal of a data directory; empty if there is none.
    pub(crate) fn read(data_dir: &Path) -> anyhow::Result<Self> {
        let path = file_path(data_dir);
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&path);
        let text = text.with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self::parse(&text))
    }

    /// Parses the lines of a journal. An incomplete last line is ignored: its checkpoint was not published.
    pub(crate) fn parse(text: &str) -> Self {
        let mut journal = Self::default();
        for line in text.split_inclusive('\n').filter_map(|it| it.strip_suffix('\n')) {
            if let Some((org_id, head)) = parse_line(line) {
                journal.record(org_id, head);
            }
        }
        journal
    }

    /// Formats one line of the journal.
    fn format_line(org_id: Uuid, head: TreeHead) -> String {
        format!("{org_id} {} {}\n", head.size, BASE64.encode(&head.root))
    }

    /// Formats a journal with one line per tree.
    fn format(&self) -> String {
        let mut lines: Vec<_> =
            self.heads().map(|(org_id, head)| Self::format_line(org_id, head)).collect();
        lines.sort();
        lines.concat()
    }

    /// Returns the newest signed head of a tree.
    pub(crate) fn head(&self, org_id: Uuid) -> Option<TreeHead> {
        self.0.get(&org_id).copied()
    }

    /// Returns the newest signed head of each tree.
    pub(crate) fn heads(&self) -> impl Iterator<Item = (Uuid, TreeHead)> {
        self.0.iter().map(|(org_id, head)| (*org_id, *head))
    }

    /// Checks that a tree of `size` entries may be signed. `root_at_signed_size` is the root of its first
    /// entries, as many as the newest signed head has; it is ignored if no head was signed.
    pub(crate) fn check(
        &self,
        org_id: Uuid,
        size: u64,
        root_at_signed_size: Option<Hash>,
    ) -> Result<(), HeadRefusal> {
        let Some(signed) = self.head(org_id) else { return Ok(()) };
        if size < signed.size {
            return Err(HeadRefusal::RolledBack { size, signed: signed.size });
        }
        if root_at_signed_size != Some(signed.root) {
            return Err(HeadRefusal::Rewritten { signed: signed.size });
        }
        Ok(())
    }

    /// Records a signed head, unless a larger one is recorded.
    fn record(&mut self, org_id: Uuid, head: TreeHead) {
        let is_newest = self.head(org_id).is_none_or(|it| it.size <= head.size);
        if is_newest {
            self.0.insert(org_id, head);
        }
    }
}

fn parse_line(line: &str) -> Option<(Uuid, TreeHead)> {
    let mut columns = line.split(' ');
    let org_id = Uuid::try_parse(columns.next()?).ok()?;
    let size = columns.next()?.parse().ok()?;
    let root = BASE64.decode(columns.next()?.as_bytes()).ok()?.try_into().ok()?;
    columns.next().is_none().then_some((org_id, TreeHead { size, root }))
}

fn file_path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE_NAME)
}

/// The journal, open for appending. A head is on disk before its signature leaves the process.
pub(crate) struct JournalFile {
    file: fs::File,
    journal: HeadJournal,
}

impl JournalFile {
    /// Opens the journal of a data directory and compacts it to one line per tree.
    pub(crate) fn open(data_dir: &Path) -> anyhow::Result<Self> {
        let path = file_path(data_dir);
        let journal = HeadJournal::read(data_dir)?;
        write_private(&path, journal.format().as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
        let file = fs::OpenOptions::new().append(true).mode(0o600).open(&path)?;
        Ok(Self { file, journal })
    }

    /// The recorded heads.
    pub(crate) fn journal(&self) -> &HeadJournal {
        &self.journal
    }

    /// Records heads. They are durable when this returns.
    pub(crate) fn record(&mut self, heads: &[(Uuid, TreeHead)]) -> anyhow::Result<()> {
        let is_new = |(org_id, head): &&(Uuid, TreeHead)| self.journal.head(*org_id) != Some(*head);
        let new: Vec<_> = heads.iter().filter(is_new).copied().collect();
        if new.is_empty() {
            return Ok(());
        }
        let lines: String =
            new.iter().map(|(org_id, head)| HeadJournal::format_line(*org_id, *head)).collect();
        let append_failed = || format!("cannot append to {FILE_NAME}");
        self.file.write_all(lines.as_bytes()).with_context(append_failed)?;
        self.file.sync_data().with_context(append_failed)?;
        for (org_id, head) in new {
            self.journal.record(org_id, head);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: Uuid = Uuid::nil();

    /// A-04, G-22: a tree that is smaller than the signed head, or does not continue it, is refused.
    #[test]
    fn a_tree_that_does_not_continue_the_signed_head_is_refused() {
        let mut journal = HeadJournal::default();
        assert_eq!(journal.check(TREE, 1, None), Ok(()));
        journal.record(TREE, TreeHead { size: 5, root: [5; 32] });
        let rolled_back = HeadRefusal::RolledBack { size: 4, signed: 5 };
        let rewritten = HeadRefusal::Rewritten { signed: 5 };
        assert_eq!(journal.check(TREE, 4, None), Err(rolled_back));
        assert_eq!(journal.check(TREE, 5, Some([5; 32])), Ok(()));
        assert_eq!(journal.check(TREE, 5, Some([6; 32])), Err(rewritten));
        assert_eq!(journal.check(TREE, 6, Some([6; 32])), Err(rewritten));
        assert_eq!(journal.check(TREE, 6, Some([5; 32])), Ok(()));
        journal.record(TREE, TreeHead { size: 3, root: [3; 32] });
        assert_eq!(journal.head(TREE).unwrap().size, 5);
    }

    #[test]
    fn an_incomplete_last_line_is_ignored() {
        let mut journal = HeadJournal::default();
        journal.record(TREE, TreeHead { size: 1, root: [1; 32] });
        let new_line = HeadJournal::format_line(TREE, TreeHead { size: 2, root: [2; 32] });
        let text = journal.format() + &new_line;
        let newer = HeadJournal::parse(&text);
        assert_eq!(newer.head(TREE).unwrap().size, 2);
        assert_eq!(HeadJournal::parse(&newer.format()), newer);
        for cut in journal.format().len()..text.len() {
            assert_eq!(HeadJournal::parse(&text[..cut]), journal, "cut at {cut}");
        }
    }
}
