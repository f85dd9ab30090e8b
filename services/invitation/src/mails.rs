//! Mails of the service: the renderer for each template.

use chassis::{Result, Tx};
use mail::{MailRenderer, QueuedMail, RenderOutcome};

use crate::{
    invitation::{self, mail::InvitationMails},
    notification::digest::{self, mail::DigestMails},
};

/// Renderer of all mails of the service.
pub(crate) struct Mails {
    pub(crate) invitations: InvitationMails,
    pub(crate) digests: DigestMails,
}

#[tonic::async_trait]
impl MailRenderer for Mails {
    async fn render(&self, mail: &QueuedMail) -> Result<RenderOutcome> {
        match mail.template.as_str() {
            invitation::MAIL_TEMPLATE => self.invitations.render(mail).await,
            digest::MAIL_TEMPLATE => self.digests.render(mail).await,
            _ => Ok(RenderOutcome::Suppress("its template does not exist")),
        }
    }

    async fn bounced(&self, tx: &mut Tx, mail: &QueuedMail, error_message: &str) -> Result<()> {
        match mail.template.as_str() {
            invitation::MAIL_TEMPLATE => self.invitations.bounced(tx, mail, error_message).await,
            _ => self.digests.bounced(tx, mail, error_message).await,
        }
    }

    async fn failed(&self, tx: &mut Tx, mail: &QueuedMail, error_message: &str) -> Result<()> {
        match mail.template.as_str() {
            invitation::MAIL_TEMPLATE => self.invitations.failed(tx, mail, error_message).await,
            _ => self.digests.failed(tx, mail, error_message).await,
        }
    }
}
