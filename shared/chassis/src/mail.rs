//! Mail leaves after the commit that asked for it, at least once, with a Message-ID that stays the same.
//! What waits in the table names a template and an object; the text, with its link, is made when it is sent.

mod letter;
mod mailer;
mod postman;

use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Result, db::Tx, id};

pub use letter::{Action, Item, Letter, plain};
pub(crate) use mailer::Mailer;
pub(crate) use postman::Postman;

/// A mail that waits for its sending.
#[derive(Clone, Debug)]
pub struct Order {
    /// Also its Message-ID, however often it is sent.
    pub id: Uuid,
    /// What kind of mail it is.
    pub template: String,
    /// What it is about.
    pub subject_id: Uuid,
}

/// What becomes of a mail when its turn has come.
#[derive(Debug)]
pub enum Draft {
    /// It is sent.
    Send(Box<Letter>),
    /// It is not wanted any more, or not by its recipient; the word says why.
    Suppress(&'static str),
}

/// Writes the mails of one service.
#[tonic::async_trait]
pub trait Writer: Send + Sync + 'static {
    /// Makes a mail, at the last moment: what is true now counts.
    async fn write(&self, order: &Order) -> Result<Draft>;

    /// The recipient's server has refused a mail for good. Runs in the transaction that writes it down.
    async fn bounced(&self, tx: &mut Tx, order: &Order, why: &str) -> Result<()> {
        let _ = (tx, order, why);
        Ok(())
    }
}

impl Tx {
    /// Asks for a mail about an object, to be sent once this transaction has committed.
    pub async fn mail(&mut self, template: &str, subject_id: Uuid) -> Result<()> {
        let now = self.now;
        self.mail_at(template, subject_id, now).await
    }

    /// Asks for a mail that is sent at a later moment.
    pub async fn mail_at(
        &mut self,
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
        .execute(self.conn())
        .await?;
        self.wake();
        Ok(())
    }
}
