//! A folder with the objects of a continuous export, as a complete bundle: its parts in JSON Lines have the
//! lines of one, and its checkpoint covers them.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Cursor, Read},
    path::{Path, PathBuf},
    vec,
};

use anyhow::{Context, Result};
use flate2::read::GzDecoder;
use serde_json::json;

/// Name of the object with the checkpoint.
const CHECKPOINT: &str = "checkpoint";

/// A part of the log.
struct Part {
    /// Index of its first entry.
    first: u64,
    /// Index of its last entry.
    last: u64,
    path: PathBuf,
}

impl Part {
    /// Returns the part in a file `part-<first>-<last>.ndjson.gz`; `None` for other files.
    fn of_file(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let range = name.strip_prefix("part-")?.strip_suffix(".ndjson.gz")?;
        let (first, last) = range.split_once('-')?;
        Some(Self { first: first.parse().ok()?, last: last.parse().ok()?, path })
    }
}

/// Reads the lines of a bundle from a folder. Parts after the checkpoint are left out: the export wrote them,
/// and its next checkpoint not yet.
pub(super) fn read(folder: &Path) -> Result<impl BufRead> {
    let path = folder.join(CHECKPOINT);
    let checkpoint = fs::read_to_string(&path);
    let checkpoint = checkpoint.with_context(|| format!("cannot read {}", path.display()))?;
    // The second line of a checkpoint; the verification checks its signature.
    let size = checkpoint.lines().nth(1).and_then(|it| it.parse::<u64>().ok());
    let size = size.with_context(|| format!("{} is not a checkpoint", path.display()))?;
    let mut parts = vec![];
    find_parts(folder, &mut parts)?;
    parts.retain(|it| it.first < size);
    parts.sort_by_key(|it| it.first);
    let count = parts.iter().map(|it| it.last.saturating_sub(it.first).saturating_add(1));
    let count = count.fold(0, u64::saturating_add);
    let header = json!({ "tenantry_audit_bundle": 1, "checkpoint": checkpoint, "whole": true });
    let end = json!({ "end": true, "count": count });
    let parts = PartReader { current: None, following: parts.into_iter() };
    let lines =
        Cursor::new(format!("{header}\n")).chain(parts).chain(Cursor::new(format!("{end}\n")));
    Ok(BufReader::new(lines))
}

/// Finds the parts in a folder and its folders.
fn find_parts(folder: &Path, parts: &mut Vec<Part>) -> Result<()> {
    let entries = fs::read_dir(folder);
    for entry in entries.with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
        if path.is_dir() {
            find_parts(&path, parts)?;
        } else {
            parts.extend(Part::of_file(path));
        }
    }
    Ok(())
}

/// Decompressed lines of parts, one after the other.
struct PartReader {
    current: Option<GzDecoder<File>>,
    following: vec::IntoIter<Part>,
}

impl Read for PartReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            if let Some(part) = &mut self.current {
                let length = part.read(buffer)?;
                if length > 0 {
                    return Ok(length);
                }
            }
            let Some(next) = self.following.next() else { return Ok(0) };
            self.current = Some(GzDecoder::new(File::open(next.path)?));
        }
    }
}
