//! The logs that a witness cosigns: origins, and the keys that sign their checkpoints.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};
use verifier::note::VerifierKey;

/// Keys of each log, by origin.
#[derive(Debug, Default)]
pub(super) struct Logs(BTreeMap<String, Vec<VerifierKey>>);

impl Logs {
    /// Reads a file of lines `<origin> <verifier key>`.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path);
        let text = text.with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let mut logs = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let number = index + 1;
            // An origin can contain spaces, a verifier key cannot.
            let (origin, key) = line
                .rsplit_once(' ')
                .with_context(|| format!("line {number} must be `<origin> <verifier key>`"))?;
            let key = VerifierKey::parse(key).with_context(|| format!("line {number}"))?;
            logs.0.entry(origin.trim().to_owned()).or_default().push(key);
        }
        ensure!(!logs.0.is_empty(), "there is no log; add a line `<origin> <verifier key>`");
        Ok(logs)
    }

    /// Returns the origins and the keys.
    pub(super) fn into_inner(self) -> BTreeMap<String, Vec<VerifierKey>> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_has_a_line_for_each_key() {
        let key = "tenantry.localhost/audit+4419620e+AfYwYSymMpBlHYFGcNoxlTWpWArGBc3BEc6qqVqTDgCw";
        let text =
            format!("# logs\n\nexample.com/log {key}\n a log  {key}\nexample.com/log {key}\n");
        let logs = Logs::parse(&text).unwrap().into_inner();
        let counts: Vec<_> = logs.iter().map(|(origin, keys)| (&**origin, keys.len())).collect();
        assert_eq!(counts, [("a log", 1), ("example.com/log", 2)]);
        for text in ["", "# none", "example.com/log", "example.com/log example.com+1+AQ=="] {
            assert!(Logs::parse(text).is_err(), "{text}");
        }
    }
}
