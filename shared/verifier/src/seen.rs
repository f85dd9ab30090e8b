//! The newest head of each tree that was believed: a log that goes back, or is another one, shows.

use std::{fs, path::Path};

use data_encoding::BASE64;
use serde_json::Value;

use crate::{
    Head, Refused, hashes, malformed, number,
    tree::{Hash, continues},
};

/// Heads that were seen, one per origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen(Vec<Head>);

/// What proves that a newer head continues an older one: the answer of `GetConsistencyProof`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consistency {
    /// Entries of the older head.
    pub from: u64,
    /// Entries of the newer head.
    pub to: u64,
    /// The hashes.
    pub hashes: Vec<Hash>,
}

impl Consistency {
    /// Reads the answer as grpcurl prints it.
    pub fn from_json(json: &Value) -> Result<Self, Refused> {
        let (from, to) = (number(json, "fromSize")?, number(json, "toSize")?);
        Ok(Self { from, to, hashes: hashes(&json["hashes"])? })
    }

    fn proves(&self, older: &Head, newer: &Head) -> bool {
        let sizes = self.from == older.size && self.to == newer.size;
        sizes && continues(older.size, &older.root, newer.size, &newer.root, &self.hashes)
    }
}

impl Seen {
    /// Reads a file of `origin size root` lines; nothing was seen if there is none.
    pub fn read(path: &Path) -> Result<Self, Refused> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(path);
        let text = text.map_err(|it| malformed(format!("{}: {it}", path.display())))?;
        let head = |line: &str| {
            let mut words = line.split(' ');
            let (origin, size, root) = (words.next()?, words.next()?, words.next()?);
            let root = BASE64.decode(root.as_bytes()).ok()?.try_into().ok()?;
            Some(Head { origin: origin.to_owned(), size: size.parse().ok()?, root })
        };
        let heads: Option<Vec<Head>> = text.lines().map(head).collect();
        heads.map(Self).ok_or_else(|| malformed(format!("{} is damaged", path.display())))
    }

    /// Writes the file, whole or not at all.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let line = |it: &Head| format!("{} {} {}\n", it.origin, it.size, BASE64.encode(&it.root));
        let text: String = self.0.iter().map(line).collect();
        let part = path.with_extension("part");
        fs::write(&part, text)?;
        fs::rename(&part, path)
    }

    /// The newest head of an origin.
    pub fn of(&self, origin: &str) -> Option<&Head> {
        self.0.iter().find(|it| it.origin == origin)
    }

    /// Believes a head only if it is the one that was seen, or one continues the other. `root_at_seen` is the
    /// root at the size that was seen, if the entries are at hand.
    pub fn check(
        &self,
        head: &Head,
        root_at_seen: Option<Hash>,
        proof: Option<&Consistency>,
    ) -> Result<(), Refused> {
        let Some(seen) = self.of(&head.origin) else { return Ok(()) };
        let (size, before) = (head.size, seen.size);
        let forked = Err(Refused::Forked { seen: before });
        if size == before {
            return if head.root == seen.root { Ok(()) } else { forked };
        }
        if size < before {
            return match proof {
                Some(it) if it.proves(head, seen) => Ok(()),
                Some(_) => forked,
                None => Err(Refused::RolledBack { size, seen: before }),
            };
        }
        match (root_at_seen, proof) {
            (Some(root), _) if root == seen.root => Ok(()),
            (None, Some(it)) if it.proves(seen, head) => Ok(()),
            (None, None) => Err(Refused::NoConsistency { seen: before, size }),
            _ => forked,
        }
    }

    /// Remembers a head, if it is the newest of its tree.
    pub fn remember(&mut self, head: &Head) {
        match self.0.iter_mut().find(|it| it.origin == head.origin) {
            Some(known) if known.size < head.size => *known = head.clone(),
            Some(_) => {}
            None => self.0.push(head.clone()),
        }
    }
}
