//! Reads the mails that the suite leaves in its data directory.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, bail};

/// Folders with .eml files.
#[derive(Clone)]
pub struct Mailbox(Vec<PathBuf>);

/// Mails leave after the commit; this is how long the story waits for one.
const PATIENCE: Duration = Duration::from_secs(20);

impl Mailbox {
    /// The mails in these folders.
    pub fn new(folders: Vec<PathBuf>) -> Self {
        Self(folders)
    }

    /// The token with a prefix in the newest mail to an address.
    pub async fn token(&self, to: &str, prefix: &str) -> Result<String> {
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(token) = self.look(to, prefix) {
                    return token;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        match found.await {
            Ok(token) => Ok(token),
            Err(_) => {
                bail!("no mail to {to} came into {:?}; is --data-dir that of the suite?", self.0)
            }
        }
    }

    fn look(&self, to: &str, prefix: &str) -> Option<String> {
        let entries = self.0.iter().filter_map(|it| std::fs::read_dir(it).ok()).flatten().flatten();
        let mut files: Vec<_> = entries.map(|it| it.path()).collect();
        // Named by their UUIDv7: the newest is the last.
        files.sort_by_key(|it| it.file_name().map(ToOwned::to_owned));
        files.iter().rev().find_map(|path| {
            // Long lines are broken by "=" at their end (RFC 2045, 6.7).
            let text = std::fs::read_to_string(path).ok()?.replace("=\r\n", "");
            let addressed = text.lines().any(|it| it.starts_with("To:") && it.contains(to));
            let (_, rest) = text.split_once(prefix).filter(|_| addressed)?;
            let end = rest.find(|it: char| !it.is_ascii_alphanumeric()).unwrap_or(rest.len());
            Some(format!("{prefix}{}", &rest[..end]))
        })
    }
}
