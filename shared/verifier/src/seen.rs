//! Checkpoints that were verified before, one per origin (the name of a tree): the state that detects a log
//! that was rolled back or forked.

use std::{fs, path::Path};

use data_encoding::BASE64;
use serde_json::Value;

use crate::{
    Checkpoint, VerifyError, malformed, read_hashes, read_number,
    tree::{Hash, verify_consistency},
};

/// The newest verified checkpoint of each origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenCheckpoints(Vec<Checkpoint>);

/// Proof that a newer checkpoint continues an older one: the response of `GetConsistencyProof`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsistencyProof {
    /// Number of entries that the older checkpoint covers.
    pub from: u64,
    /// Number of entries that the newer checkpoint covers.
    pub to: u64,
    /// Hashes of the proof (RFC 6962, 2.1.2).
    pub hashes: Vec<Hash>,
}

impl ConsistencyProof {
    /// Reads the response as grpcurl prints it.
    pub fn from_json(json: &Value) -> Result<Self, VerifyError> {
        Ok(Self {
            from: read_number(json, "fromSize")?,
            to: read_number(json, "toSize")?,
            hashes: read_hashes(&json["hashes"])?,
        })
    }

    fn verify(&self, older: &Checkpoint, newer: &Checkpoint) -> bool {
        self.from == older.size
            && self.to == newer.size
            && verify_consistency(older.size, &older.root, newer.size, &newer.root, &self.hashes)
    }
}

impl SeenCheckpoints {
    /// Reads a file of lines `origin size root`; empty if there is no file.
    pub fn read(path: &Path) -> Result<Self, VerifyError> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(path);
        let text = text.map_err(|error| malformed(format!("{}: {error}", path.display())))?;
        let checkpoints: Option<Vec<Checkpoint>> = text.lines().map(parse_line).collect();
        let invalid_line =
            || malformed(format!("{}: a line is not `origin size root`", path.display()));
        checkpoints.map(Self).ok_or_else(invalid_line)
    }

    /// Writes the file atomically.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let line =
            |it: &Checkpoint| format!("{} {} {}\n", it.origin, it.size, BASE64.encode(&it.root));
        let text: String = self.0.iter().map(line).collect();
        let temporary = path.with_extension("part");
        fs::write(&temporary, text)?;
        fs::rename(&temporary, path)
    }

    /// Returns the newest verified checkpoint of an origin.
    pub fn get(&self, origin: &str) -> Option<&Checkpoint> {
        self.0.iter().find(|it| it.origin == origin)
    }

    /// Accepts a checkpoint if it equals the one seen before, or if one of the two continues the other.
    /// `root_at_seen` is the root that the new checkpoint's tree had at the size of the seen one, computed
    /// from its entries; `None` if not all of them were verified.
    pub fn check(
        &self,
        checkpoint: &Checkpoint,
        root_at_seen: Option<Hash>,
        proof: Option<&ConsistencyProof>,
    ) -> Result<(), VerifyError> {
        let Some(seen) = self.get(&checkpoint.origin) else { return Ok(()) };
        let size = checkpoint.size;
        let forked = Err(VerifyError::Forked { seen: seen.size });
        if size == seen.size {
            return if checkpoint.root == seen.root { Ok(()) } else { forked };
        }
        if size < seen.size {
            return match proof {
                Some(proof) if proof.verify(checkpoint, seen) => Ok(()),
                Some(_) => forked,
                None => Err(VerifyError::RolledBack { size, seen: seen.size }),
            };
        }
        match (root_at_seen, proof) {
            (Some(root), _) if root == seen.root => Ok(()),
            (None, Some(proof)) if proof.verify(seen, checkpoint) => Ok(()),
            (None, None) => Err(VerifyError::NoConsistency { seen: seen.size, size }),
            _ => forked,
        }
    }

    /// Records a checkpoint, if it is the newest of its origin.
    pub fn record(&mut self, checkpoint: &Checkpoint) {
        match self.0.iter_mut().find(|it| it.origin == checkpoint.origin) {
            Some(seen) if seen.size < checkpoint.size => *seen = checkpoint.clone(),
            Some(_) => {}
            None => self.0.push(checkpoint.clone()),
        }
    }
}

fn parse_line(line: &str) -> Option<Checkpoint> {
    let mut columns = line.split(' ');
    let origin = columns.next()?.to_owned();
    let size = columns.next()?.parse().ok()?;
    let root = BASE64.decode(columns.next()?.as_bytes()).ok()?.try_into().ok()?;
    Some(Checkpoint { origin, size, root })
}
