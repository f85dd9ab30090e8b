//! The key with which the log is signed.

use std::path::Path;

use anyhow::Context;
use aws_lc_rs::signature::Ed25519KeyPair;
use chassis::key::write_private;

/// Reads the key, and makes it on the first start.
pub(crate) fn read_or_create(path: &Path) -> anyhow::Result<Ed25519KeyPair> {
    if !path.exists() {
        let key = Ed25519KeyPair::generate().context("no key could be made")?;
        write_private(path, key.to_pkcs8v1().context("no key could be made")?.as_ref())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let key = Ed25519KeyPair::from_pkcs8(&bytes);
    key.with_context(|| format!("{} is no Ed25519 key; restore it from a backup", path.display()))
}
