//! Mail queue. A mail is queued in a transaction and sent after its commit, at least once and always with the
//! same Message-ID. The queue stores a template and the id of an object; the mail is rendered when it is
//! sent, so links (which are credentials) are not stored.

mod links;
mod mailer;
mod message;
pub mod queue;
mod smtp;
mod store;
mod worker;

use chassis::{OrgId, Result, Tx};
use time::OffsetDateTime;
use uuid::Uuid;

pub use links::{neutralize_links, sanitize};
pub use mailer::Mailer;
pub use message::{Action, DigestItem, EmailMessage};
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
    /// Organization on whose behalf the mail is sent; the nil UUID for mails about accounts.
    pub org_id: Uuid,
    /// Time at which the mail was queued.
    pub created_at: OffsetDateTime,
    /// Trace context of the call that queued the mail (`traceparent`); empty if spans are not exported.
    pub traceparent: String,
}

/// Order of mails: all links are sent before any notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// A link that a person waits for.
    Link = 1,
    /// A notice of an event.
    Notice = 2,
}

/// A mail to be queued.
#[derive(Clone, Copy, Debug)]
pub struct NewMail<'a> {
    /// Name of the template.
    pub template: &'a str,
    /// Id of the object that the mail is about.
    pub subject_id: Uuid,
    /// Organization on whose behalf the mail is sent; none for mails about accounts.
    pub org_id: Option<OrgId>,
    /// Priority.
    pub priority: Priority,
    /// Time at which the mail is sent.
    pub due_at: OffsetDateTime,
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

    /// Handles a bounce: the mail server has permanently rejected the recipient. Runs in the transaction that
    /// stores the outcome.
    async fn bounced(&self, tx: &mut Tx, mail: &QueuedMail, reason: &str) -> Result<()> {
        let _ = (tx, mail, reason);
        Ok(())
    }

    /// Handles a mail that the mail server has not accepted within five days, and that is not retried any
    /// more. Runs in the transaction that stores the outcome.
    async fn failed(&self, tx: &mut Tx, mail: &QueuedMail, reason: &str) -> Result<()> {
        let _ = (tx, mail, reason);
        Ok(())
    }
}

/// Queues a mail with a link about an account, to be sent after the commit.
pub async fn enqueue(tx: &mut Tx, template: &str, subject_id: Uuid) -> Result<()> {
    let (org_id, priority, due_at) = (None, Priority::Link, tx.now);
    enqueue_new(tx, NewMail { template, subject_id, org_id, priority, due_at }).await
}

/// Queues a mail, to be sent after the commit or later.
pub async fn enqueue_new(tx: &mut Tx, mail: NewMail<'_>) -> Result<()> {
    store::insert(tx, mail).await?;
    tx.wake();
    Ok(())
}
