//! The mail worker: sends the queued mails of one service.

use std::sync::Arc;

use ::worker::Progress;
use chassis::{Db, Result, Tx};

use super::{MailRenderer, Mailer, QueuedMail, RenderOutcome, mailer::SendOutcome};

/// Sends the queued mails of one service.
pub struct MailWorker {
    /// Database of the service.
    pub db: Db,
    /// Destination of the mails.
    pub mailer: Arc<Mailer>,
    /// Renderer of the mails.
    pub renderer: Arc<dyn MailRenderer>,
}

/// Maximum number of attempts to send a mail, which take about eight hours with their pauses. Afterwards the
/// mail stays in the queue, where an operator can see its last error.
const ATTEMPTS_MAX: i32 = 10;

/// Final outcome of a mail.
enum Outcome {
    Sent,
    /// Permanently rejected, with the reply of the mail server.
    Bounced(String),
    /// Not sent, with the reason of the renderer.
    Suppressed(&'static str),
}

impl MailWorker {
    /// Sends one mail that is due and stores its outcome.
    pub async fn step(&self) -> anyhow::Result<Progress> {
        let Some(mail) = self.db.write_as_system("mail", claim).await? else {
            return Ok(Progress::Idle);
        };
        let outcome = self.send(&mail).await;
        let store = async |tx: &mut Tx| self.store_outcome(tx, &mail, outcome).await;
        self.db.write_as_system("mail", store).await?;
        Ok(Progress::Busy)
    }

    async fn send(&self, mail: &QueuedMail) -> anyhow::Result<Outcome> {
        let message = match self.renderer.render(mail).await? {
            RenderOutcome::Send(message) => message,
            RenderOutcome::Suppress(reason) => return Ok(Outcome::Suppressed(reason)),
        };
        Ok(match self.mailer.send(mail.id, &message).await? {
            SendOutcome::Accepted => Outcome::Sent,
            SendOutcome::Rejected(smtp_reply) => Outcome::Bounced(smtp_reply),
        })
    }

    async fn store_outcome(
        &self,
        tx: &mut Tx,
        mail: &QueuedMail,
        outcome: anyhow::Result<Outcome>,
    ) -> Result<()> {
        let (status, error) = match outcome {
            Ok(Outcome::Sent) => ("SENT", None),
            Ok(Outcome::Suppressed(reason)) => ("SUPPRESSED", Some(reason.to_owned())),
            Ok(Outcome::Bounced(smtp_reply)) => {
                self.renderer.bounced(tx, mail, &smtp_reply).await?;
                ("BOUNCED", Some(smtp_reply))
            }
            Err(error) => {
                let error = format!("{error:#}");
                let template = &mail.template;
                tracing::warn!(mail = %mail.id, template, error, "a mail was not sent; it is retried");
                ("QUEUED", Some(error))
            }
        };
        let ended_at = (status != "QUEUED").then_some(tx.now);
        sqlx::query!(
            "update mail set sent_at = $2, last_error = $3, outcome = $4 where id = $1",
            mail.id,
            ended_at,
            error,
            status,
        )
        .execute(tx.conn())
        .await?;
        Ok(())
    }
}

/// Claims the mail with the earliest due time: moves its due time by the back-off, so that no other worker
/// claims it while it is being sent.
async fn claim(tx: &mut Tx) -> Result<Option<QueuedMail>> {
    let now = tx.now;
    let mail = sqlx::query_as!(
        QueuedMail,
        "update mail set attempts = attempts + 1, due_at = $1 + interval '30 seconds' * power(2, attempts)
         where id = (select id from mail where sent_at is null and due_at <= $1 and attempts < $2
                     order by due_at limit 1 for update skip locked)
         returning id, template, subject_id",
        now,
        ATTEMPTS_MAX,
    );
    Ok(mail.fetch_optional(tx.conn()).await?)
}
