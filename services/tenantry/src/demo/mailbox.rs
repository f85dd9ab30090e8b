//! Access to the mails of the suite: files in its data directory, if it has no SMTP server, or the API of a
//! mail catcher.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Location of the suite's mails.
#[derive(Clone)]
pub enum Mailbox {
    /// Directories with `.eml` files.
    Folders(Vec<PathBuf>),
    /// Base URL of a MailDev server (`GET /email`).
    Api(String),
}

/// Maximum time to wait for a mail. Mails are sent in the background, after the transaction is committed.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Interval at which the mails are searched.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

impl Mailbox {
    /// Waits for a mail to a recipient that contains a token with this prefix. Returns the token in the
    /// newest such mail.
    pub async fn token(&self, recipient: &str, prefix: &str) -> Result<String> {
        let token = tokio::time::timeout(TIMEOUT, async {
            loop {
                let found = match self {
                    Self::Folders(folders) => find_in_folders(folders, recipient, prefix),
                    Self::Api(url) => find_by_api(url, recipient, prefix).await?,
                };
                if let Some(token) = found {
                    return Ok(token);
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        });
        match (token.await, self) {
            (Ok(token), _) => token,
            (Err(_), Self::Folders(folders)) => bail!(
                "no mail to {recipient} in {folders:?}; --mail-dir must be the directory `mail` in the data \
                 directory of the suite, or --mail-api the URL of its mail catcher"
            ),
            (Err(_), Self::Api(url)) => {
                bail!(
                    "no mail to {recipient} at {url}; --smtp-url of the suite must be that server's"
                )
            }
        }
    }
}

fn find_in_folders(folders: &[PathBuf], recipient: &str, prefix: &str) -> Option<String> {
    let entries = folders.iter().filter_map(|it| std::fs::read_dir(it).ok()).flatten().flatten();
    let mut files: Vec<_> = entries.map(|it| it.path()).collect();
    // File names are UUIDv7, so the newest is the last.
    files.sort_by_key(|it| it.file_name().map(ToOwned::to_owned));
    files.iter().rev().find_map(|path| {
        // Removes the soft line breaks of quoted-printable text (RFC 2045, 6.7).
        let text = std::fs::read_to_string(path).ok()?.replace("=\r\n", "");
        let is_recipient = text.lines().any(|it| it.starts_with("To:") && it.contains(recipient));
        is_recipient.then(|| token_in(&text, prefix))?
    })
}

/// Searches the mails of a MailDev server, which lists them oldest first.
async fn find_by_api(url: &str, recipient: &str, prefix: &str) -> Result<Option<String>> {
    let response = reqwest::get(format!("{}/email", url.trim_end_matches('/'))).await;
    let mails = response.and_then(reqwest::Response::error_for_status);
    let mails = mails.with_context(|| format!("--mail-api {url} does not respond"))?;
    let mails: Vec<Value> =
        mails.json().await.with_context(|| format!("{url}/email is not a list of mails"))?;
    let is_recipient = |mail: &&Value| {
        let recipients = mail["to"].as_array().map(Vec::as_slice).unwrap_or_default();
        recipients.iter().any(|it| it["address"] == recipient)
    };
    let to_recipient = mails.iter().rev().filter(is_recipient);
    let mut texts = to_recipient.filter_map(|mail| mail["text"].as_str());
    Ok(texts.find_map(|text| token_in(text, prefix)))
}

/// Returns the first token with a prefix.
fn token_in(text: &str, prefix: &str) -> Option<String> {
    let (_, rest) = text.split_once(prefix)?;
    let end = rest.find(|it: char| !it.is_ascii_alphanumeric()).unwrap_or(rest.len());
    Some(format!("{prefix}{}", &rest[..end]))
}
