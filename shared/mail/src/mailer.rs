//! Sending of mails: to an SMTP server, or into files.

use std::path::PathBuf;

use anyhow::Context;
use chassis::Config;
use lettre::message::Mailbox;
use secrecy::ExposeSecret;
use uuid::Uuid;

use super::{
    EmailMessage,
    smtp::{SmtpFailure, SmtpServer, Stage},
};

/// Destination of mails.
pub enum Mailer {
    /// An SMTP server, with the sender address.
    Smtp(Box<SmtpDestination>),
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

/// An SMTP server, with the sender address.
pub struct SmtpDestination {
    server: SmtpServer,
    from: Mailbox,
}

/// Result of sending a mail.
pub(super) enum SendOutcome {
    /// The mail was accepted.
    Accepted,
    /// The mail server has permanently rejected the recipient.
    Bounced(String),
    /// A later attempt can succeed.
    Retry {
        /// Part of the SMTP session that failed; none for files.
        stage: Option<Stage>,
        message: String,
    },
}

impl Mailer {
    /// Creates the mailer that the settings select. `directory` is for files, if there is no SMTP server.
    pub fn new(config: &Config, directory: PathBuf) -> anyhow::Result<Self> {
        let from = &config.mail_from;
        let from = super::message::sender(from)
            .with_context(|| format!("--mail-from {from:?} is not a valid e-mail address"))?;
        let Some(url) = &config.smtp_url else {
            std::fs::create_dir_all(&directory)?;
            // Only the owner may read the files, because the links in mails are credentials.
            let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            std::fs::set_permissions(&directory, owner_only)?;
            return Ok(Self::Files { directory, from, console: config.mail_console });
        };
        let server = SmtpServer::from_url(url.expose_secret())
            .context("--smtp-url is not a valid URL; use for example smtps://mail.example.com")?;
        Ok(Self::Smtp(Box::new(SmtpDestination { server, from })))
    }

    /// Connects to the SMTP server and signs in, without a mail.
    pub async fn examine(&self) -> anyhow::Result<()> {
        let Self::Smtp(smtp) = self else { return Ok(()) };
        smtp.server.examine().await.map_err(|it| {
            anyhow::anyhow!("the SMTP server refuses the connection: {it}; check --smtp-url")
        })
    }

    /// Sends a mail.
    pub(super) async fn send(&self, id: Uuid, message: &EmailMessage) -> SendOutcome {
        let sent = match self {
            Self::Smtp(smtp) => match message.encode(id, &smtp.from) {
                Ok(encoded) => match smtp.server.send(&encoded).await {
                    Ok(()) => return SendOutcome::Accepted,
                    Err(SmtpFailure { is_bounce: true, message, .. }) => {
                        return SendOutcome::Bounced(message);
                    }
                    Err(failure) => {
                        let message = failure.to_string();
                        return SendOutcome::Retry { stage: Some(failure.stage), message };
                    }
                },
                Err(error) => Err(error),
            },
            Self::Files { directory, from, console } => {
                let print = if *console { print_to_console } else { |_: &EmailMessage| {} };
                write_file(directory.join(format!("{id}.eml")), id, from, message, print).await
            }
        };
        match sent {
            Ok(()) => SendOutcome::Accepted,
            Err(error) => SendOutcome::Retry { stage: None, message: format!("{error:#}") },
        }
    }
}

async fn write_file(
    path: PathBuf,
    id: Uuid,
    from: &Mailbox,
    message: &EmailMessage,
    print: fn(&EmailMessage),
) -> anyhow::Result<()> {
    tokio::fs::write(&path, message.encode(id, from)?.formatted()).await?;
    print(message);
    Ok(())
}

/// Prints recipient, subject and link of a mail to the console, for people who try out the suite without an
/// SMTP server. Does not use the log, because links are credentials.
fn print_to_console(message: &EmailMessage) {
    use std::io::Write;
    let link = message.action.as_ref().map(|it| it.link.as_str()).unwrap_or_default();
    let line = format!("mail to {}: {}\n  {link}\n", message.to, message.subject);
    let _ = std::io::stdout().write_all(line.as_bytes());
}
