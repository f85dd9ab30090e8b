//! Mail leaves after the commit that asked for it, at least once, with a Message-ID that stays the same.
//! What waits in the table names a template and an object; the text, with its link, is made when it is sent.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use futures::future::BoxFuture;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor, message::Mailbox};
use secrecy::ExposeSecret;
use uuid::Uuid;

use crate::{
    Config, Result,
    db::{Db, Tx},
    id,
};

/// A mail, ready to be sent.
#[derive(Debug)]
pub struct Letter {
    /// Address of the recipient.
    pub to: String,
    /// Subject line.
    pub subject: String,
    /// Plain text.
    pub text: String,
}

/// Makes the mail of a template about an object; `None` if it is not wanted any more.
pub type Write =
    Arc<dyn Fn(&'static str, Uuid) -> BoxFuture<'static, Result<Option<Letter>>> + Send + Sync>;

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

    async fn send(&self, id: Uuid, letter: Letter) -> anyhow::Result<()> {
        let (Self::Smtp(_, from) | Self::Folder { from, .. }) = self;
        let message = Message::builder()
            .message_id(Some(format!("<{id}@{}>", from.email.domain())))
            .from(from.clone())
            .to(letter.to.parse()?)
            .subject(&letter.subject)
            .header(lettre::message::header::ContentType::TEXT_PLAIN)
            .body(letter.text.clone())?;
        match self {
            Self::Smtp(transport, _) => {
                transport.send(message).await?;
            }
            Self::Folder { folder, console, .. } => {
                let path = folder.join(format!("{id}.eml"));
                tokio::fs::write(&path, message.formatted()).await?;
                if *console {
                    announce(&letter);
                }
            }
        }
        Ok(())
    }
}

/// Shows a mail on the console: without a mail server this is how its reader gets the link. Not a log
/// line, because links are secrets.
fn announce(letter: &Letter) {
    use std::io::Write;
    let link = letter.text.lines().find(|it| it.starts_with("http")).unwrap_or_default();
    let line = format!("mail to {}: {}\n  {link}\n", letter.to, letter.subject);
    let _ = std::io::stdout().write_all(line.as_bytes());
}

impl Tx {
    /// Asks for a mail about an object, to be sent once this transaction has committed.
    pub async fn mail(&mut self, template: &'static str, subject_id: Uuid) -> Result<()> {
        let now = self.now;
        sqlx::query!(
            "insert into mail (id, template, subject_id, due_at) values ($1, $2, $3, $4)",
            id::new(),
            template,
            subject_id,
            now,
        )
        .execute(self.conn())
        .await?;
        Ok(())
    }
}

/// The mails of one service.
pub(crate) struct Postman {
    pub(crate) db: Db,
    pub(crate) mailer: Arc<Mailer>,
    pub(crate) templates: Vec<&'static str>,
    pub(crate) write: Write,
}

/// After so many tries a mail is left for an operator.
const ATTEMPTS_MAX: i32 = 10;

impl Postman {
    /// Sends one mail that is due. Answers whether there may be more.
    pub(crate) async fn step(&self) -> anyhow::Result<bool> {
        let Some((id, template, subject_id)) = self.db.write_as_system("mail", take).await? else {
            return Ok(false);
        };
        let sent = self.send(id, &template, subject_id).await;
        let error = sent.as_ref().err().map(|it| format!("{it:#}"));
        if let Some(error) = &error {
            tracing::warn!(mail = %id, template, error, "a mail was not sent; it will be tried again");
        }
        let finish = async |tx: &mut Tx| {
            let sent_at = error.is_none().then_some(tx.now);
            sqlx::query!(
                "update mail set sent_at = $2, last_error = $3 where id = $1",
                id,
                sent_at,
                error
            )
            .execute(tx.conn())
            .await?;
            Ok(())
        };
        self.db.write_as_system("mail", finish).await?;
        Ok(true)
    }

    async fn send(&self, id: Uuid, template: &str, subject_id: Uuid) -> anyhow::Result<()> {
        let template =
            self.templates.iter().find(|it| **it == template).context("no such template")?;
        match (self.write)(template, subject_id).await? {
            Some(letter) => self.mailer.send(id, letter).await,
            None => Ok(()),
        }
    }
}

/// Takes the mail that is due longest, and keeps others from taking it for a while.
async fn take(tx: &mut Tx) -> Result<Option<(Uuid, String, Uuid)>> {
    let now = tx.now;
    let row = sqlx::query!(
        "update mail set attempts = attempts + 1, due_at = $1 + interval '30 seconds' * power(2, attempts)
         where id = (select id from mail where sent_at is null and due_at <= $1 and attempts < $2
                     order by due_at limit 1 for update skip locked)
         returning id, template, subject_id",
        now,
        ATTEMPTS_MAX,
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.map(|it| (it.id, it.template, it.subject_id)))
}
