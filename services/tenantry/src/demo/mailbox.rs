//! Access to mails that the suite writes to its data directory when it has no SMTP server.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, bail};

/// Directories with `.eml` files.
#[derive(Clone)]
pub struct Mailbox(Vec<PathBuf>);

/// Maximum time to wait for a mail. Mails are sent in the background, after the transaction is committed.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Interval at which the directories are searched.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

impl Mailbox {
    /// Returns the mailbox of these directories.
    pub fn new(directories: Vec<PathBuf>) -> Self {
        Self(directories)
    }

    /// Waits for a mail to a recipient that contains a token with this prefix. Returns the token in the
    /// newest such mail.
    pub async fn token(&self, recipient: &str, prefix: &str) -> Result<String> {
        let token = tokio::time::timeout(TIMEOUT, async {
            loop {
                if let Some(token) = self.find_token(recipient, prefix) {
                    return token;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        });
        match token.await {
            Ok(token) => Ok(token),
            Err(_) => bail!(
                "no mail to {recipient} in {:?}; --data-dir must be the data directory of the suite",
                self.0
            ),
        }
    }

    fn find_token(&self, recipient: &str, prefix: &str) -> Option<String> {
        let entries = self.0.iter().filter_map(|it| std::fs::read_dir(it).ok()).flatten().flatten();
        let mut files: Vec<_> = entries.map(|it| it.path()).collect();
        // File names are UUIDv7, so the newest is the last.
        files.sort_by_key(|it| it.file_name().map(ToOwned::to_owned));
        files.iter().rev().find_map(|path| {
            // Removes the soft line breaks of quoted-printable text (RFC 2045, 6.7).
            let text = std::fs::read_to_string(path).ok()?.replace("=\r\n", "");
            let is_recipient =
                text.lines().any(|it| it.starts_with("To:") && it.contains(recipient));
            let (_, rest) = text.split_once(prefix).filter(|_| is_recipient)?;
            let end = rest.find(|it: char| !it.is_ascii_alphanumeric()).unwrap_or(rest.len());
            Some(format!("{prefix}{}", &rest[..end]))
        })
    }
}
