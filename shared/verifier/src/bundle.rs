//! Verification of a bundle: an audit log export in the format BUNDLE, which proves every entry in it.

use std::{collections::BTreeMap, io::BufRead};

use serde_json::Value;

use crate::{
    Checkpoint, Pins, VerifyError, malformed, note, read_bytes, read_hashes, read_number,
    receipt::{ProvenEntry, decode_leaf},
    sealed::Keys,
    suite::{self, SuiteProof},
    tree::{Hash, RootBuilder, leaf_hash, verify_inclusion},
};

/// The supported version of the format.
const VERSION: u64 = 1;

/// Results of a verified bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The checkpoint that the entries were verified against.
    pub checkpoint: Checkpoint,
    /// True if the bundle has every entry up to the checkpoint, at least as a hash.
    pub complete: bool,
    /// Entries with their content.
    pub entries: u64,
    /// Entries of which only the hash remains: purged, older than the retention of the plan, or with a
    /// credential in a URL that an older version recorded.
    pub hash_only: u64,
    /// Sequence numbers of each service's events, without a gap except for entries of which only the hash
    /// remains. Empty unless the bundle is complete.
    pub sources: BTreeMap<String, SequenceRange>,
    /// The checkpoint of the suite tree that includes this checkpoint, if the bundle has one.
    pub suite: Option<Checkpoint>,
    /// Merkle root of the first entries, as many as `prior_size` of [`verify`] requested; only of a complete
    /// bundle.
    pub root_at_prior_size: Option<Hash>,
}

/// First and last sequence number of a service's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceRange {
    /// First sequence number.
    pub first: i64,
    /// Last sequence number.
    pub last: i64,
}

/// Verifies a bundle line by line and calls `on_entry` for each proven entry. `prior_size` returns the size
/// of the checkpoint of an origin that was verified before; the report has the root at that size.
pub fn verify(
    lines: impl BufRead,
    pins: &Pins,
    prior_size: impl Fn(&str) -> Option<u64>,
    mut on_entry: impl FnMut(&ProvenEntry),
) -> Result<Report, VerifyError> {
    let mut lines = lines.lines();
    let mut next_line = || -> Result<Option<Value>, VerifyError> {
        let Some(line) = lines.next() else { return Ok(None) };
        let line = line.map_err(|error| malformed(error.to_string()))?;
        serde_json::from_str(&line)
            .map(Some)
            .map_err(|error| malformed(format!("a line of the bundle is not JSON: {error}")))
    };
    let header = next_line()?.ok_or_else(|| malformed("the bundle is empty"))?;
    let mut verification = Verification::start(&header, pins)?;
    verification.prior_size = prior_size(&verification.report.checkpoint.origin);
    while let Some(line) = next_line()? {
        if line["end"] == Value::Bool(true) {
            return if next_line()?.is_some() {
                Err(malformed("the bundle has lines after its last line"))
            } else {
                verification.finish(&line)
            };
        }
        if let Some(entry) = verification.verify_line(&line)? {
            on_entry(&entry);
        }
    }
    Err(malformed("the bundle is truncated: its last line is missing"))
}

/// State of a verification between two lines.
struct Verification {
    report: Report,
    /// Tree of all entries so far; used for complete bundles.
    tree: RootBuilder,
    prior_size: Option<u64>,
    last_index: Option<u64>,
    /// Number of hash-only entries before the last entry of each service.
    hash_only_before: BTreeMap<String, u64>,
}

impl Verification {
    /// Verifies the first line: version, checkpoint, and inclusion of the checkpoint in the suite tree.
    fn start(header: &Value, pins: &Pins) -> Result<Self, VerifyError> {
        if read_number(header, "tenantry_audit_bundle")? != VERSION {
            return Err(malformed(format!("the file is not a bundle of version {VERSION}")));
        }
        let note = header["checkpoint"].as_str();
        let note = note.ok_or_else(|| malformed("the bundle has no checkpoint"))?;
        let report = Report {
            checkpoint: note::open(note, pins)?,
            complete: header["whole"] == Value::Bool(true),
            entries: 0,
            hash_only: 0,
            sources: BTreeMap::new(),
            suite: suite::verify(SuiteProof::from_json(&header["suite"])?.as_ref(), note, pins)?,
            root_at_prior_size: None,
        };
        Ok(Self {
            report,
            tree: RootBuilder::default(),
            prior_size: None,
            last_index: None,
            hash_only_before: BTreeMap::new(),
        })
    }

    /// Verifies the line of one entry. Returns `None` if it has only the hash.
    fn verify_line(&mut self, line: &Value) -> Result<Option<ProvenEntry>, VerifyError> {
        let index = read_number(line, "index")?;
        let Checkpoint { size, root, .. } = self.report.checkpoint;
        if index >= size {
            return Err(VerifyError::BeyondHead { index, size });
        }
        if self.report.complete && index != self.tree.size() {
            return Err(VerifyError::Missing { index: self.tree.size() });
        }
        if self.last_index.is_some_and(|last| last >= index) {
            return Err(malformed(format!("entry {index} is out of order")));
        }
        self.last_index = Some(index);
        let hash = read_bytes(&line["leaf_hash"], "leaf_hash")?;
        let hash: Hash = hash
            .try_into()
            .map_err(|_| malformed(format!("leaf_hash of entry {index} is not 32 bytes long")))?;
        let entry = if line["leaf"].is_null() {
            self.report.hash_only += 1;
            None
        } else {
            Some(self.verify_leaf(index, hash, line)?)
        };
        if self.report.complete {
            self.tree.push(hash);
            if self.prior_size == Some(self.tree.size()) {
                self.report.root_at_prior_size = Some(self.tree.root());
            }
        } else if !verify_inclusion(index, hash, &read_hashes(&line["hashes"])?, size, &root) {
            return Err(VerifyError::NotInLog { index });
        }
        Ok(entry)
    }

    fn verify_leaf(
        &mut self,
        index: u64,
        hash: Hash,
        line: &Value,
    ) -> Result<ProvenEntry, VerifyError> {
        let leaf = read_bytes(&line["leaf"], "leaf")?;
        if leaf_hash(&leaf) != hash {
            return Err(VerifyError::Changed { index });
        }
        let mut keys = Keys::new();
        for (subject, key) in line["keys"].as_object().into_iter().flatten() {
            keys.insert(subject.clone(), read_bytes(key, "key")?);
        }
        let entry = decode_leaf(index, &leaf, &keys)?;
        self.report.entries += 1;
        if self.report.complete && entry.sequence > 0 {
            self.check_sequence(&entry)?;
        }
        Ok(entry)
    }

    /// Checks that the sequence numbers of a service have no gap, except for entries of which only the hash
    /// remains. A number that was used before is accepted: a service whose database was restored reuses
    /// numbers.
    fn check_sequence(&mut self, entry: &ProvenEntry) -> Result<(), VerifyError> {
        let range = self.report.sources.get(&entry.source).copied();
        let mut range = range.unwrap_or_else(|| {
            // After hash-only entries, the first number of a service is unknown.
            let first = if self.report.hash_only > 0 { entry.sequence } else { 1 };
            SequenceRange { first, last: first - 1 }
        });
        let hash_only = self.report.hash_only;
        let before = self.hash_only_before.insert(entry.source.clone(), hash_only);
        let skipped = i64::try_from(hash_only - before.unwrap_or(hash_only)).unwrap_or(i64::MAX);
        let expected = range.last.saturating_add(1);
        if entry.sequence > expected.saturating_add(skipped) {
            return Err(VerifyError::Gap {
                source_name: entry.source.clone(),
                sequence: expected,
                index: entry.index,
            });
        }
        range.last = range.last.max(entry.sequence);
        self.report.sources.insert(entry.source.clone(), range);
        Ok(())
    }

    /// Verifies the last line, and the root of a complete bundle.
    fn finish(self, line: &Value) -> Result<Report, VerifyError> {
        let count = self.report.entries + self.report.hash_only;
        if read_number(line, "count")? != count {
            return Err(malformed("the number of entries differs from the count in the last line"));
        }
        if self.report.complete {
            if self.tree.size() < self.report.checkpoint.size {
                return Err(VerifyError::Missing { index: self.tree.size() });
            }
            if self.tree.root() != self.report.checkpoint.root {
                return Err(VerifyError::RootMismatch);
            }
        }
        Ok(self.report)
    }
}
