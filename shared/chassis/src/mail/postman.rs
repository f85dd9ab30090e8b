//! Sends what waits.

use std::sync::Arc;

use super::{Draft, Mailer, Order, Writer, mailer::Answer};
use crate::{
    Result,
    db::{Db, Tx},
};

/// The mails of one service.
pub(crate) struct Postman {
    pub(crate) db: Db,
    pub(crate) mailer: Arc<Mailer>,
    pub(crate) writer: Arc<dyn Writer>,
}

/// After so many tries, about eight hours, a mail is left for an operator.
const ATTEMPTS_MAX: i32 = 10;

/// What became of a mail.
enum Outcome {
    Sent,
    Bounced(String),
    Suppressed(&'static str),
}

impl Postman {
    /// Sends one mail that is due. Answers whether there may be more.
    pub(crate) async fn step(&self) -> anyhow::Result<bool> {
        let Some(order) = self.db.write_as_system("mail", take).await? else { return Ok(false) };
        let outcome = self.send(&order).await;
        let finish = async |tx: &mut Tx| self.finish(tx, &order, outcome).await;
        self.db.write_as_system("mail", finish).await?;
        Ok(true)
    }

    async fn send(&self, order: &Order) -> anyhow::Result<Outcome> {
        let letter = match self.writer.write(order).await? {
            Draft::Send(letter) => letter,
            Draft::Suppress(why) => return Ok(Outcome::Suppressed(why)),
        };
        Ok(match self.mailer.send(order.id, &letter).await? {
            Answer::Taken => Outcome::Sent,
            Answer::Refused(why) => Outcome::Bounced(why),
        })
    }

    async fn finish(
        &self,
        tx: &mut Tx,
        order: &Order,
        outcome: anyhow::Result<Outcome>,
    ) -> Result<()> {
        let (word, said) = match outcome {
            Ok(Outcome::Sent) => ("SENT", None),
            Ok(Outcome::Suppressed(why)) => ("SUPPRESSED", Some(why.to_owned())),
            Ok(Outcome::Bounced(why)) => {
                self.writer.bounced(tx, order, &why).await?;
                ("BOUNCED", Some(why))
            }
            Err(error) => {
                let (mail, template, error) = (order.id, &order.template, format!("{error:#}"));
                tracing::warn!(%mail, template, error, "a mail was not sent; it will be tried again");
                ("QUEUED", Some(error))
            }
        };
        let ended_at = (word != "QUEUED").then_some(tx.now);
        sqlx::query!(
            "update mail set sent_at = $2, last_error = $3, outcome = $4 where id = $1",
            order.id,
            ended_at,
            said,
            word,
        )
        .execute(tx.conn())
        .await?;
        Ok(())
    }
}

/// Takes the mail that is due longest, and keeps others from taking it for a while.
async fn take(tx: &mut Tx) -> Result<Option<Order>> {
    let now = tx.now;
    let order = sqlx::query_as!(
        Order,
        "update mail set attempts = attempts + 1, due_at = $1 + interval '30 seconds' * power(2, attempts)
         where id = (select id from mail where sent_at is null and due_at <= $1 and attempts < $2
                     order by due_at limit 1 for update skip locked)
         returning id, template, subject_id",
        now,
        ATTEMPTS_MAX,
    );
    Ok(order.fetch_optional(tx.conn()).await?)
}
