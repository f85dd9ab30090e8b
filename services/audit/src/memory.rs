//! What a signer remembers of what it signed, outside the database, so that no database can make it go back:
//! the size and root of every tree, and when it refuses.

use std::collections::HashMap;

use data_encoding::BASE64;
use uuid::Uuid;

use crate::merkle::Hash;

/// A head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) size: u64,
    pub(crate) root: Hash,
}

/// The newest head of every tree that was signed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory(HashMap<Uuid, Head>);

/// Why a head is not signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// The tree is shorter than it was.
    #[error("it has {size} entries, but {signed} are signed: the database was restored, or cut")]
    RolledBack {
        /// Entries now.
        size: u64,
        /// Entries signed.
        signed: u64,
    },
    /// What was signed is no longer what is there.
    #[error("its first {signed} entries are not those that were signed: it was rewritten")]
    Rewritten {
        /// Entries signed.
        signed: u64,
    },
}

impl Memory {
    /// Reads the journal. A last line that was not written to its end is of a head that was never given out.
    pub(crate) fn parse(journal: &str) -> Self {
        let mut memory = Self::default();
        for line in journal.split_inclusive('\n').filter_map(|it| it.strip_suffix('\n')) {
            if let Some((tree, head)) = entry(line) {
                memory.remember(tree, head);
            }
        }
        memory
    }

    /// The line of the journal about one head.
    pub(crate) fn line(tree: Uuid, head: Head) -> String {
        format!("{tree} {} {}\n", head.size, BASE64.encode(&head.root))
    }

    /// The shortest journal of what is remembered.
    pub(crate) fn journal(&self) -> String {
        let mut lines: Vec<_> = self.0.iter().map(|it| Self::line(*it.0, *it.1)).collect();
        lines.sort();
        lines.concat()
    }

    /// The newest head of a tree.
    pub(crate) fn head(&self, tree: Uuid) -> Option<Head> {
        self.0.get(&tree).copied()
    }

    /// Every tree that was signed.
    pub(crate) fn trees(&self) -> impl Iterator<Item = (Uuid, Head)> {
        self.0.iter().map(|it| (*it.0, *it.1))
    }

    /// Whether the next head of a tree may be signed. `before` is the root that the tree has now at the size
    /// that is remembered; not asked for if nothing is.
    pub(crate) fn admit(&self, tree: Uuid, size: u64, before: Option<Hash>) -> Result<(), Refused> {
        let Some(known) = self.head(tree) else { return Ok(()) };
        if size < known.size {
            return Err(Refused::RolledBack { size, signed: known.size });
        }
        if before != Some(known.root) {
            return Err(Refused::Rewritten { signed: known.size });
        }
        Ok(())
    }

    /// Remembers a head.
    pub(crate) fn remember(&mut self, tree: Uuid, head: Head) {
        let newer = self.head(tree).is_none_or(|it| it.size <= head.size);
        if newer {
            self.0.insert(tree, head);
        }
    }
}

fn entry(line: &str) -> Option<(Uuid, Head)> {
    let mut words = line.split(' ');
    let tree = Uuid::try_parse(words.next()?).ok()?;
    let size = words.next()?.parse().ok()?;
    let root = BASE64.decode(words.next()?.as_bytes()).ok()?.try_into().ok()?;
    words.next().is_none().then_some((tree, Head { size, root }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: Uuid = Uuid::nil();

    /// A-04, G-22: smaller than signed, or of the same size with another root, or not continuing what was
    /// signed: refused.
    #[test]
    fn a_signer_never_goes_back() {
        let mut memory = Memory::default();
        assert_eq!(memory.admit(TREE, 1, None), Ok(()));
        memory.remember(TREE, Head { size: 5, root: [5; 32] });
        assert_eq!(memory.admit(TREE, 4, None), Err(Refused::RolledBack { size: 4, signed: 5 }));
        assert_eq!(memory.admit(TREE, 5, Some([5; 32])), Ok(()));
        assert_eq!(memory.admit(TREE, 5, Some([6; 32])), Err(Refused::Rewritten { signed: 5 }));
        assert_eq!(memory.admit(TREE, 6, Some([6; 32])), Err(Refused::Rewritten { signed: 5 }));
        assert_eq!(memory.admit(TREE, 6, Some([5; 32])), Ok(()));
        memory.remember(TREE, Head { size: 3, root: [3; 32] });
        assert_eq!(memory.head(TREE).unwrap().size, 5);
    }

    #[test]
    fn a_journal_is_read_also_if_its_last_line_was_cut() {
        let mut memory = Memory::default();
        memory.remember(TREE, Head { size: 1, root: [1; 32] });
        let grown = memory.journal() + &Memory::line(TREE, Head { size: 2, root: [2; 32] });
        let newer = Memory::parse(&grown);
        assert_eq!(newer.head(TREE).unwrap().size, 2);
        assert_eq!(Memory::parse(&newer.journal()), newer);
        for cut in memory.journal().len()..grown.len() {
            assert_eq!(Memory::parse(&grown[..cut]), memory, "cut at {cut}");
        }
    }
}
