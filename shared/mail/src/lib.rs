//! Mail queue. A mail is queued in a transaction and sent after its commit, at least once and always with the
//! same Message-ID. The queue stores a template and the id of an object; the mail is rendered when it is
//! sent, so links (which are credentials) are not stored.

mod mailer;
mod message;
mod worker;

use chassis::{Result, Tx, id};
use time::OffsetDateTime;
use uuid::Uuid;

pub use mailer::Mailer;
pub use message::{Action, DigestItem, EmailMessage, sanitize};
pub use worker::MailWorker;

/// A mail in the queue.
#[derive(Clone, Debug)]
pub struct QueuedMail {
    /// Id, and local part of the Message-ID.
    pub id: Uuid,
    /// Name of the template.
    pub template: String,
    /// Id of the object that the mail is about, for example an invitation.
    pub subject_id: Uuid,
}

/// Result of rendering a mail.
#[derive(Debug)]
pub enum RenderOutcome {
    /// The mail, to be sent.
    Send(Box<EmailMessage>),
    /// The mail is not sent, for this reason: its object has changed, or the recipient has opted out.
    Suppress(&'static str),
}

/// Renders the mails of one service.
#[tonic::async_trait]
pub trait MailRenderer: Send + Sync + 'static {
    /// Renders a mail from the current state, just before it is sent.
    async fn render(&self, mail: &QueuedMail) -> Result<RenderOutcome>;

    /// Handles a bounce: the mail server has permanently rejected a mail. Runs in the transaction that stores
    /// the outcome.
    async fn bounced(&self, tx: &mut Tx, mail: &QueuedMail, reason: &str) -> Result<()> {
        let _ = (tx, mail, reason);
        Ok(())
    }
}

/// Queues a mail about an object, to be sent after the commit.
pub async fn enqueue(tx: &mut Tx, template: &str, subject_id: Uuid) -> Result<()> {
    let now = tx.now;
    enqueue_at(tx, template, subject_id, now).await
}

/// Queues a mail about an object, to be sent at a time.
pub async fn enqueue_at(
    tx: &mut Tx,
    template: &str,
    subject_id: Uuid,
    due_at: OffsetDateTime,
) -> Result<()> {
    sqlx::query!(
        "insert into mail (id, template, subject_id, due_at) values ($1, $2, $3, $4)",
        id::new(),
        template,
        subject_id,
        due_at,
    )
    .execute(tx.conn())
    .await?;
    tx.wake();
    Ok(())
}
