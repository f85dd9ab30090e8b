//! Every mail of this service, by its template.

use chassis::{
    Result, Tx,
    mail::{Draft, Order, Writer},
};

use crate::{digest, invitation};

/// Writes the mails of this service.
pub(crate) struct Mails {
    pub(crate) invitations: invitation::mail::Mails,
    pub(crate) digests: digest::mail::Mails,
}

#[tonic::async_trait]
impl Writer for Mails {
    async fn write(&self, order: &Order) -> Result<Draft> {
        match order.template.as_str() {
            invitation::MAIL => self.invitations.write(order).await,
            digest::MAIL => self.digests.write(order).await,
            _ => Ok(Draft::Suppress("no such template")),
        }
    }

    async fn bounced(&self, tx: &mut Tx, order: &Order, why: &str) -> Result<()> {
        match order.template.as_str() {
            invitation::MAIL => self.invitations.bounced(tx, order, why).await,
            _ => self.digests.bounced(tx, order).await,
        }
    }
}
