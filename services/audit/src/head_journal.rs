//! Journal of signed tree heads: the newest signed size and root of each tree, in a file beside the database.
//! Every replica records the heads that it or another replica signed, so a database that was restored or
//! modified cannot make any of them sign a second history.

use std::{
    collections::HashMap,
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use anyhow::Context;
use chassis::key::write_private;
use data_encoding::BASE64;
use uuid::Uuid;

use crate::merkle::Hash;

const FILE_NAME: &str = "audit.signed";
/// Start of the line with the id of the replica.
const REPLICA_PREFIX: &str = "replica ";

/// Size and root of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TreeHead {
    pub(crate) size: u64,
    pub(crate) root: Hash,
}

/// The newest signed head of each tree, by organization.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeadJournal(HashMap<Uuid, TreeHead>);

impl HeadJournal {
    /// Reads the journal of a data directory; empty if there is none.
    pub(crate) fn read(data_dir: &Path) -> anyhow::Result<Self> {
        Ok(Self::parse(&read_text(data_dir)?))
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

    /// Records a signed head, unless a larger one is recorded.
    pub(crate) fn record(&mut self, org_id: Uuid, head: TreeHead) {
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

fn parse_replica(line: &str) -> Option<Uuid> {
    Uuid::try_parse(line.strip_prefix(REPLICA_PREFIX)?).ok()
}

/// Reads the text of the journal; empty if there is none.
fn read_text(data_dir: &Path) -> anyhow::Result<String> {
    let path = file_path(data_dir);
    if !path.exists() {
        return Ok(String::new());
    }
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

fn file_path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE_NAME)
}

/// Newest signed head of each tree, shared by the readers and the signing loop of a process.
#[derive(Clone, Default)]
pub(crate) struct SignedHeads(Arc<RwLock<HeadJournal>>);

impl SignedHeads {
    /// Shares the heads of a journal.
    pub(crate) fn new(journal: HeadJournal) -> Self {
        Self(Arc::new(RwLock::new(journal)))
    }

    /// Returns the newest signed head of a tree. It must be read before the tree: a tree that is read later
    /// has at least these entries.
    pub(crate) fn head(&self, org_id: Uuid) -> Option<TreeHead> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).head(org_id)
    }

    /// Returns all heads.
    pub(crate) fn all(&self) -> HeadJournal {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds a signed head.
    pub(crate) fn record(&self, org_id: Uuid, head: TreeHead) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).record(org_id, head);
    }
}

/// The journal, open for appending. A head is on disk before its signature leaves the process.
pub(crate) struct JournalFile {
    file: fs::File,
    heads: SignedHeads,
    replica: Uuid,
}

impl JournalFile {
    /// Opens the journal of a data directory and compacts it to one line per tree. `heads` become its heads.
    pub(crate) fn open(data_dir: &Path, heads: SignedHeads) -> anyhow::Result<Self> {
        let path = file_path(data_dir);
        let text = read_text(data_dir)?;
        let replica = text.lines().find_map(parse_replica).unwrap_or_else(chassis::id::new);
        let journal = HeadJournal::parse(&text);
        let text = format!("{REPLICA_PREFIX}{replica}\n{}", journal.format());
        write_private(&path, text.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
        let file = fs::OpenOptions::new().append(true).mode(0o600).open(&path)?;
        for (org_id, head) in journal.heads() {
            heads.record(org_id, head);
        }
        Ok(Self { file, heads, replica })
    }

    /// Id of the replica that this journal belongs to. A replica that loses its journal gets a new id.
    pub(crate) fn replica(&self) -> Uuid {
        self.replica
    }

    /// Returns the newest signed head of a tree.
    pub(crate) fn head(&self, org_id: Uuid) -> Option<TreeHead> {
        self.heads.head(org_id)
    }

    /// Returns the newest signed head of each tree.
    pub(crate) fn heads(&self) -> HeadJournal {
        self.heads.all()
    }

    /// Records heads. They are durable when this returns.
    pub(crate) fn record(&mut self, heads: &[(Uuid, TreeHead)]) -> anyhow::Result<()> {
        let is_new = |(org_id, head): &&(Uuid, TreeHead)| {
            self.head(*org_id).is_none_or(|recorded| recorded.size < head.size)
        };
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
            self.heads.record(org_id, head);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: Uuid = Uuid::nil();

    #[test]
    fn the_largest_head_of_a_tree_stays() {
        let mut journal = HeadJournal::default();
        journal.record(TREE, TreeHead { size: 5, root: [5; 32] });
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
