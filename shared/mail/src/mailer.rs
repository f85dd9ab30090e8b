//! Sending of mails: to an SMTP server, or into files.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use chassis::Config;
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor, message::Mailbox};
use secrecy::ExposeSecret;
use uuid::Uuid;

use super::EmailMessage;

/// Time-out of a connection to the SMTP server.
const SMTP_TIMEOUT: Duration = Duration::from_secs(15);

/// Destination of mails.
pub enum Mailer {
    /// An SMTP server, with the sender address.
    Smtp(Box<AsyncSmtpTransport<Tokio1Executor>>, Mailbox),
    /// Files in the .eml format.
    Files {
        /// Directory of the files.
        directory: PathBuf,
        /// Sender address.
        from: Mailbox,
        /// True if each mail is also printed to the console.
        console: bool,
    },
}

/// Result of sending a mail.
pub(super) enum SendOutcome {
    /// The mail was accepted.
    Accepted,
    /// The mail was permanently rejected (5xx reply).
    Rejected(String),
}

impl Mailer {
    /// Creates the mailer that the settings select. `directory` is for files, if there is no SMTP server.
    pub fn new(config: &Config, directory: PathBuf) -> anyhow::Result<Self> {
        let from = &config.mail_from;
        let from = from
            .parse()
            .with_context(|| format!("--mail-from {from:?} is not a valid e-mail address"))?;
        let Some(url) = &config.smtp_url else {
            std::fs::create_dir_all(&directory)?;
            // Only the owner may read the files, because the links in mails are credentials.
            let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            std::fs::set_permissions(&directory, owner_only)?;
            return Ok(Self::Files { directory, from, console: config.mail_console });
        };
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose_secret());
        let transport = transport
            .context("--smtp-url is not a valid URL; use for example smtps://mail.example.com")?;
        let transport = transport.timeout(Some(SMTP_TIMEOUT)).build();
        Ok(Self::Smtp(Box::new(transport), from))
    }

    /// Sends a mail. An error is temporary: a later attempt can succeed.
    pub(super) async fn send(
        &self,
        id: Uuid,
        message: &EmailMessage,
    ) -> anyhow::Result<SendOutcome> {
        let (Self::Smtp(_, from) | Self::Files { from, .. }) = self;
        let encoded = message.encode(id, from)?;
        match self {
            Self::Smtp(transport, _) => match transport.send(encoded).await {
                Ok(_) => {}
                Err(error) if error.is_permanent() => {
                    return Ok(SendOutcome::Rejected(error.to_string()));
                }
                Err(error) => return Err(error.into()),
            },
            Self::Files { directory, console, .. } => {
                let path = directory.join(format!("{id}.eml"));
                tokio::fs::write(&path, encoded.formatted()).await?;
                if *console {
                    print_to_console(message);
                }
            }
        }
        Ok(SendOutcome::Accepted)
    }
}

/// Prints recipient, subject and link of a mail to the console, for people who try out the suite without an
/// SMTP server. Does not use the log, because links are credentials.
fn print_to_console(message: &EmailMessage) {
    use std::io::Write;
    let link = message.action.as_ref().map(|it| it.link.as_str()).unwrap_or_default();
    let line = format!("mail to {}: {}\n  {link}\n", message.to, message.subject);
    let _ = std::io::stdout().write_all(line.as_bytes());
}
