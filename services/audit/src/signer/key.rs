//! Signing keys of the log, in files of the data directory.

use std::{fs, path::Path};

use anyhow::Context;
use aws_lc_rs::signature::Ed25519KeyPair;
use chassis::key::write_private;

/// File of the current key (PKCS #8).
const KEY_FILE: &str = "audit.key";
/// File of the previous key during a rotation. Both keys sign until it is removed.
const PREVIOUS_KEY_FILE: &str = "audit.key.previous";
/// File of the verifier keys of all keys that ever signed.
const VERIFIER_KEYS_FILE: &str = "audit.keys";

/// Reads the keys of a data directory, newest first. Generates one on the first start.
pub(crate) fn read_or_generate(data_dir: &Path) -> anyhow::Result<Vec<Ed25519KeyPair>> {
    let path = data_dir.join(KEY_FILE);
    if !path.exists() {
        generate(&path)?;
    }
    let mut keys = vec![read(&path)?];
    let previous = data_dir.join(PREVIOUS_KEY_FILE);
    if previous.exists() {
        keys.push(read(&previous)?);
    }
    Ok(keys)
}

/// Starts a key rotation: the current key becomes the previous one, and a new one is generated. Fails during
/// another rotation.
pub(crate) fn rotate(data_dir: &Path) -> anyhow::Result<()> {
    let path = data_dir.join(KEY_FILE);
    let previous = data_dir.join(PREVIOUS_KEY_FILE);
    anyhow::ensure!(
        !previous.exists(),
        "a key rotation is in progress: remove {} once every verifier has the new key",
        previous.display()
    );
    fs::rename(&path, &previous).with_context(|| format!("cannot rename {}", path.display()))?;
    generate(&path)
}

fn generate(path: &Path) -> anyhow::Result<()> {
    let key = Ed25519KeyPair::generate().context("cannot generate an Ed25519 key")?;
    let document = key.to_pkcs8v1().context("cannot generate an Ed25519 key")?;
    write_private(path, document.as_ref())
        .with_context(|| format!("cannot write {}", path.display()))
}

fn read(path: &Path) -> anyhow::Result<Ed25519KeyPair> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let key = Ed25519KeyPair::from_pkcs8(&bytes);
    key.with_context(|| {
        format!("{} is not an Ed25519 key in PKCS #8; restore it from a backup", path.display())
    })
}

/// Adds the current verifier keys to the file of all verifier keys, and returns all of them. They verify
/// checkpoints from before a rotation.
pub(crate) fn record_verifier_keys(
    data_dir: &Path,
    current: &[String],
) -> anyhow::Result<Vec<String>> {
    let path = data_dir.join(VERIFIER_KEYS_FILE);
    let text = if path.exists() { fs::read_to_string(&path)? } else { String::new() };
    let mut all: Vec<String> = text.lines().map(str::to_owned).collect();
    let new: Vec<_> = current.iter().filter(|key| !all.contains(key)).cloned().collect();
    if !new.is_empty() {
        all.extend(new);
        let text: String = all.iter().map(|key| format!("{key}\n")).collect();
        write_private(&path, text.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(all)
}
