//! A file with many entries: an export in the format BUNDLE.

use std::{collections::BTreeMap, io::BufRead};

use serde_json::Value;

use crate::{
    Head, Pins, Refused, bytes, hashes, malformed, note, number,
    receipt::{Proven, read},
    sealed::Keys,
    tree::{Growing, Hash, includes, leaf_hash},
};

/// The only version there is.
const VERSION: u64 = 1;

/// What a bundle proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The signed head.
    pub head: Head,
    /// Whether every entry up to the head is accounted for.
    pub whole: bool,
    /// Entries that can be read.
    pub entries: u64,
    /// Entries of which only the hash is there: they were purged, or are no longer shown.
    pub hidden: u64,
    /// For each service the numbers of its events, first and last, without a gap between them.
    pub sources: BTreeMap<String, (i64, i64)>,
    /// Whether the head is in the suite's tree, and how many heads there are.
    pub suite: Option<Head>,
    /// The root at the size that was asked for, if the bundle has all entries up to it.
    pub root_at: Option<Hash>,
}

/// Verifies a bundle line by line; tells each entry that was proven. `at` asks for the root at that size.
pub fn verify(
    lines: impl BufRead,
    pins: &Pins,
    at: impl Fn(&str) -> Option<u64>,
    mut tell: impl FnMut(&Proven),
) -> Result<Report, Refused> {
    let mut lines = lines.lines();
    let mut next = || -> Result<Option<Value>, Refused> {
        let Some(line) = lines.next() else { return Ok(None) };
        let line = line.map_err(|it| malformed(it.to_string()))?;
        serde_json::from_str(&line)
            .map(Some)
            .map_err(|it| malformed(format!("a line is no JSON: {it}")))
    };
    let first = next()?.ok_or_else(|| malformed("the bundle is empty"))?;
    let mut reading = Reading::begin(&first, pins)?;
    reading.wanted = at(&reading.report.head.origin);
    while let Some(line) = next()? {
        if line["end"] == Value::Bool(true) {
            let trailing = next()?.is_some();
            return if trailing {
                Err(malformed("lines after the end"))
            } else {
                reading.end(&line)
            };
        }
        if let Some(proven) = reading.line(&line)? {
            tell(&proven);
        }
    }
    Err(malformed("the bundle is cut off: it has no last line"))
}

struct Reading {
    report: Report,
    tree: Growing,
    wanted: Option<u64>,
    last: Option<u64>,
}

impl Reading {
    fn begin(first: &Value, pins: &Pins) -> Result<Self, Refused> {
        if number(first, "tenantry_audit_bundle")? != VERSION {
            return Err(malformed("this is no bundle that this verifier knows"));
        }
        let checkpoint = first["checkpoint"].as_str();
        let checkpoint = checkpoint.ok_or_else(|| malformed("the bundle has no head"))?;
        let head = note::open(checkpoint, pins)?;
        let suite = suite(&first["suite"], checkpoint, pins)?;
        let whole = first["whole"] == Value::Bool(true);
        let (entries, hidden, sources) = (0, 0, BTreeMap::new());
        let report = Report { head, whole, entries, hidden, sources, suite, root_at: None };
        Ok(Self { report, tree: Growing::default(), wanted: None, last: None })
    }

    /// One entry; nothing is told of one that is hidden.
    fn line(&mut self, line: &Value) -> Result<Option<Proven>, Refused> {
        let (index, size) = (number(line, "index")?, self.report.head.size);
        if index >= size {
            return Err(Refused::BeyondHead { index, size });
        }
        let expected = if self.report.whole { Some(self.tree.size()) } else { None };
        if let Some(expected) = expected.filter(|it| *it != index) {
            return Err(Refused::Missing { index: expected });
        }
        if self.last.is_some_and(|it| it >= index) {
            return Err(malformed(format!("entry {index} is not in its order")));
        }
        self.last = Some(index);
        let Some(told) = line["leaf_hash"].as_str() else {
            return Err(malformed(format!("entry {index} has no hash")));
        };
        let told: Hash = bytes(&told.into(), "leaf_hash")?
            .try_into()
            .map_err(|_| malformed("a hash has not 32 bytes"))?;
        let proven =
            if line["leaf"].is_null() { None } else { Some(self.entry(index, told, line)?) };
        if self.report.whole {
            self.tree.add(told);
            if self.wanted == Some(self.tree.size()) {
                self.report.root_at = Some(self.tree.root());
            }
        } else if !includes(index, told, &hashes(&line["hashes"])?, size, &self.report.head.root) {
            return Err(Refused::NotInLog { index });
        }
        self.report.hidden += u64::from(proven.is_none());
        Ok(proven)
    }

    fn entry(&mut self, index: u64, told: Hash, line: &Value) -> Result<Proven, Refused> {
        let leaf = bytes(&line["leaf"], "leaf")?;
        if leaf_hash(&leaf) != told {
            return Err(Refused::Changed { index });
        }
        let mut keys = Keys::new();
        for (person, key) in line["keys"].as_object().into_iter().flatten() {
            keys.insert(person.clone(), bytes(key, "key")?);
        }
        let proven = read(index, &leaf, &keys)?;
        self.report.entries += 1;
        if self.report.whole && proven.sequence > 0 {
            self.number(&proven)?;
        }
        Ok(proven)
    }

    /// The events of a service come one after the other. A number that was there before is one that the
    /// service used again; it takes nothing away.
    fn number(&mut self, it: &Proven) -> Result<(), Refused> {
        let hidden = self.report.hidden > 0;
        let first = self.report.sources.get(&it.source).copied();
        // Behind entries that are hidden, numbers begin somewhere.
        let (from, last) =
            first.unwrap_or(if hidden { (it.sequence, it.sequence - 1) } else { (1, 0) });
        let next = last.saturating_add(1);
        if it.sequence > next {
            let (source_name, sequence) = (it.source.clone(), next);
            return Err(Refused::Gap { source_name, sequence, index: it.index });
        }
        self.report.sources.insert(it.source.clone(), (from, last.max(it.sequence)));
        Ok(())
    }

    fn end(self, line: &Value) -> Result<Report, Refused> {
        let there = self.report.entries + self.report.hidden;
        if number(line, "count")? != there {
            return Err(malformed("the number of entries is not what the last line says"));
        }
        if self.report.whole {
            if self.tree.size() < self.report.head.size {
                return Err(Refused::Missing { index: self.tree.size() });
            }
            if self.tree.root() != self.report.head.root {
                return Err(Refused::RootMismatch);
            }
        }
        Ok(self.report)
    }
}

/// Where the head is in the suite's tree.
fn suite(json: &Value, checkpoint: &str, pins: &Pins) -> Result<Option<Head>, Refused> {
    let Some(note) = json["checkpoint"].as_str() else { return Ok(None) };
    let head = note::open(note, &Pins { org_id: Some("suite".to_owned()), ..pins.clone() })?;
    let (index, path) = (number(json, "index")?, hashes(&json["hashes"])?);
    if includes(index, leaf_hash(checkpoint.as_bytes()), &path, head.size, &head.root) {
        Ok(Some(head))
    } else {
        Err(malformed("the head is not where the bundle says in the suite's tree"))
    }
}
