//! The keys with which the log is signed, and the journal of what was signed; both lie beside the database,
//! not in it.

use std::{fs, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use anyhow::Context;
use aws_lc_rs::signature::Ed25519KeyPair;
use chassis::key::write_private;
use uuid::Uuid;

use crate::memory::{Head, Memory};

const KEY: &str = "audit.key";
/// The key before, while a key is changed: it signs, too, until this file is removed.
const PREVIOUS: &str = "audit.key.previous";
/// The verifier keys of all keys so far.
const KNOWN: &str = "audit.keys";
const JOURNAL: &str = "audit.signed";

/// Reads the keys of a folder, the newest first; makes one on the first start.
pub(crate) fn read_or_create(folder: &Path) -> anyhow::Result<Vec<Ed25519KeyPair>> {
    let path = folder.join(KEY);
    if !path.exists() {
        create(&path)?;
    }
    let mut keys = vec![read(&path)?];
    let previous = folder.join(PREVIOUS);
    if previous.exists() {
        keys.push(read(&previous)?);
    }
    Ok(keys)
}

/// Makes a new key; the one so far becomes the previous one. Fails while a change is still going on.
pub(crate) fn rotate(folder: &Path) -> anyhow::Result<()> {
    let (path, previous) = (folder.join(KEY), folder.join(PREVIOUS));
    anyhow::ensure!(
        !previous.exists(),
        "a change of keys is going on: once every verifier has the new key, remove {}",
        previous.display()
    );
    fs::rename(&path, &previous).with_context(|| format!("there is no {}", path.display()))?;
    create(&path)
}

fn create(path: &Path) -> anyhow::Result<()> {
    let key = Ed25519KeyPair::generate().context("no key could be made")?;
    let document = key.to_pkcs8v1().context("no key could be made")?;
    write_private(path, document.as_ref())
        .with_context(|| format!("cannot write {}", path.display()))
}

fn read(path: &Path) -> anyhow::Result<Ed25519KeyPair> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let key = Ed25519KeyPair::from_pkcs8(&bytes);
    key.with_context(|| format!("{} is no Ed25519 key; restore it from a backup", path.display()))
}

/// Every key that ever signed, as verifier keys: heads of before a change of keys stay good.
pub(crate) fn known(folder: &Path, current: &[String]) -> anyhow::Result<Vec<String>> {
    let path = folder.join(KNOWN);
    let text = if path.exists() { fs::read_to_string(&path)? } else { String::new() };
    let mut known: Vec<String> = text.lines().map(str::to_owned).collect();
    let new: Vec<_> = current.iter().filter(|it| !known.contains(it)).cloned().collect();
    if !new.is_empty() {
        known.extend(new);
        let text: String = known.iter().map(|it| format!("{it}\n")).collect();
        write_private(&path, text.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(known)
}

/// Where the journal of a folder is.
pub(crate) fn journal(folder: &Path) -> std::path::PathBuf {
    folder.join(JOURNAL)
}

/// What was signed, on disk before any signature leaves the process.
pub(crate) struct Journal {
    file: fs::File,
    pub(crate) memory: Memory,
}

impl Journal {
    /// Opens the journal of a folder, and makes it as short as it can be.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Self> {
        let path = journal(folder);
        let text = if path.exists() {
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?
        } else {
            String::new()
        };
        let memory = Memory::parse(&text);
        write_private(&path, memory.journal().as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
        let file = fs::OpenOptions::new().append(true).mode(0o600).open(&path)?;
        Ok(Self { file, memory })
    }

    /// Remembers heads; durable when it returns.
    pub(crate) fn remember(&mut self, heads: &[(Uuid, Head)]) -> anyhow::Result<()> {
        let new: Vec<_> =
            heads.iter().filter(|it| self.memory.head(it.0) != Some(it.1)).copied().collect();
        if new.is_empty() {
            return Ok(());
        }
        let lines: String = new.iter().map(|it| Memory::line(it.0, it.1)).collect();
        self.file.write_all(lines.as_bytes()).context("the signer's journal")?;
        self.file.sync_data().context("the signer's journal")?;
        for (tree, head) in new {
            self.memory.remember(tree, head);
        }
        Ok(())
    }
}
