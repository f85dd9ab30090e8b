//! Signing keys of the log, in files of the data directory or at `--audit-key-file`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use aws_lc_rs::signature::Ed25519KeyPair;
use chassis::key::write_private;

/// File of the current key (PKCS #8), in the data directory.
const KEY_FILE: &str = "audit.key";
/// Suffix of the file of the previous key during a rotation. Both keys sign until it is removed.
const PREVIOUS_SUFFIX: &str = ".previous";
/// File of the verifier keys of all keys that ever signed.
const VERIFIER_KEYS_FILE: &str = "audit.keys";

/// Returns the file of the current key: the configured one, or one in the data directory.
pub(crate) fn path(data_dir: &Path, configured: Option<&Path>) -> PathBuf {
    configured.map_or_else(|| data_dir.join(KEY_FILE), Path::to_owned)
}

fn previous(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PREVIOUS_SUFFIX);
    name.into()
}

/// Reads the keys, newest first. Generates one in the data directory on the first start; a configured file
/// must exist, because all replicas share it.
pub(crate) fn read_or_generate(
    data_dir: &Path,
    configured: Option<&Path>,
) -> anyhow::Result<Vec<Ed25519KeyPair>> {
    let path = path(data_dir, configured);
    if configured.is_none() && !path.exists() {
        generate(&path)?;
    }
    let mut keys = vec![read(&path)?];
    let previous = previous(&path);
    if previous.exists() {
        keys.push(read(&previous)?);
    }
    Ok(keys)
}

/// Starts a key rotation: the current key becomes the previous one, and a new one is generated. Fails during
/// another rotation.
pub(crate) fn rotate(path: &Path) -> anyhow::Result<()> {
    let previous = previous(path);
    anyhow::ensure!(
        !previous.exists(),
        "a key rotation is in progress: remove {} once every verifier has the new key",
        previous.display()
    );
    fs::rename(path, &previous).with_context(|| format!("cannot rename {}", path.display()))?;
    generate(path)
}

/// Generates a key and writes it to a file.
pub(crate) fn generate(path: &Path) -> anyhow::Result<()> {
    let key = Ed25519KeyPair::generate().context("cannot generate an Ed25519 key")?;
    let document = key.to_pkcs8v1().context("cannot generate an Ed25519 key")?;
    write_private(path, document.as_ref())
        .with_context(|| format!("cannot write {}", path.display()))
}

fn read(path: &Path) -> anyhow::Result<Ed25519KeyPair> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let key = Ed25519KeyPair::from_pkcs8(&bytes);
    key.with_context(|| {
        format!(
            "{} is not an Ed25519 key in PKCS #8; restore it from a backup, or set --audit-key-file to the \
             right file",
            path.display()
        )
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
