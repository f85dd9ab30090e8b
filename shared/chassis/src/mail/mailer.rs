//! Where mails go: to a mail server, or into files.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor, message::Mailbox};
use secrecy::ExposeSecret;
use uuid::Uuid;

use super::Letter;
use crate::Config;

/// Where mails go.
pub(crate) enum Mailer {
    /// To a mail server.
    Smtp(Box<AsyncSmtpTransport<Tokio1Executor>>, Mailbox),
    /// Into .eml files, and a line on the console.
    Folder {
        /// Where the files go.
        folder: PathBuf,
        /// Who sends.
        from: Mailbox,
        /// Whether there is a line, too.
        console: bool,
    },
}

/// What a mail server said to a mail.
pub(super) enum Answer {
    /// It took the mail.
    Taken,
    /// It refuses the mail, and will again (a 5xx reply).
    Refused(String),
}

impl Mailer {
    pub(crate) fn new(config: &Config, folder: PathBuf) -> anyhow::Result<Self> {
        let from = &config.mail_from;
        let from = from.parse().with_context(|| format!("{from} is no sender of mails"))?;
        let Some(url) = &config.smtp_url else {
            std::fs::create_dir_all(&folder)?;
            // Mails hold links, and links are credentials.
            std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
            return Ok(Self::Folder { folder, from, console: config.mail_console });
        };
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose_secret());
        let transport =
            transport.context("the SMTP address is not valid; for example smtps://host")?;
        let transport = transport.timeout(Some(Duration::from_secs(15))).build();
        Ok(Self::Smtp(Box::new(transport), from))
    }

    /// Sends a mail. An error means that it can be tried again.
    pub(super) async fn send(&self, id: Uuid, letter: &Letter) -> anyhow::Result<Answer> {
        let (Self::Smtp(_, from) | Self::Folder { from, .. }) = self;
        let message = letter.message(id, from)?;
        match self {
            Self::Smtp(transport, _) => match transport.send(message).await {
                Ok(_) => {}
                Err(error) if error.is_permanent() => {
                    return Ok(Answer::Refused(error.to_string()));
                }
                Err(error) => return Err(error.into()),
            },
            Self::Folder { folder, console, .. } => {
                let path = folder.join(format!("{id}.eml"));
                tokio::fs::write(&path, message.formatted()).await?;
                if *console {
                    announce(letter);
                }
            }
        }
        Ok(Answer::Taken)
    }
}

/// Shows a mail on the console: without a mail server this is how its reader gets the link. Not a log
/// line, because links are secrets.
fn announce(letter: &Letter) {
    use std::io::Write;
    let link = letter.action.as_ref().map(|it| it.link.as_str()).unwrap_or_default();
    let line = format!("mail to {}: {}\n  {link}\n", letter.to, letter.subject);
    let _ = std::io::stdout().write_all(line.as_bytes());
}
