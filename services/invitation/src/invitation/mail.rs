//! The mail with the link of an invitation.

use chassis::{Db, Result, Tx};
use mail::{Action, EmailMessage, QueuedMail, RenderOutcome, sanitize};
use time::{Duration, OffsetDateTime};

use super::{
    Invitation,
    link::{LinkKind, Links},
    state::State,
    store,
};
use crate::{
    recipient::{self, OptOut, OptOutLinks},
    role::role_name,
};

/// Largest number of characters of a mail server's reply in an event.
const REPLY_CHARS_MAX: usize = 500;

/// Renderer of the mails of invitations.
pub(crate) struct InvitationMails {
    pub(crate) db: Db,
    pub(crate) links: Links,
    pub(crate) opt_out_links: OptOutLinks,
    /// Largest number of invitations that are mailed to one address in a day; 0 for no limit.
    pub(crate) per_recipient_max: i64,
}

impl InvitationMails {
    /// Renders the mail of an invitation, or suppresses it.
    pub(crate) async fn render(&self, mail: &QueuedMail) -> Result<RenderOutcome> {
        let Some(invitation) = store::get_by_link(&self.db, mail.subject_id).await? else {
            return Ok(RenderOutcome::Suppress("the invitation was deleted"));
        };
        if let Some(reason) = self.suppression(&invitation).await? {
            return Ok(RenderOutcome::Suppress(reason));
        }
        Ok(RenderOutcome::Send(Box::new(self.message(invitation))))
    }

    /// Records that the recipient's mail server permanently rejected the mail.
    pub(crate) async fn bounced(
        &self,
        tx: &mut Tx,
        mail: &QueuedMail,
        error_message: &str,
    ) -> Result<()> {
        let Some(invitation) = store::lock_by_link(tx, mail.subject_id).await? else {
            return Ok(());
        };
        let (org_id, address) = (invitation.org_id, &invitation.canonical_email);
        let reply = shortened(error_message);
        recipient::store::silence(tx, org_id, address, &reply).await?;
        store::update(tx, invitation.bounce(reply, tx.now)).await?;
        Ok(())
    }

    /// Records that the mail was not accepted within five days, which the inviter is notified of.
    pub(crate) async fn failed(
        &self,
        tx: &mut Tx,
        mail: &QueuedMail,
        error_message: &str,
    ) -> Result<()> {
        if let Some(invitation) = store::lock_by_link(tx, mail.subject_id).await? {
            store::update(tx, invitation.mail_failed(shortened(error_message), tx.now)).await?;
        }
        Ok(())
    }

    /// Reason for not sending the mail, if there is one.
    async fn suppression(&self, invitation: &Invitation) -> Result<Option<&'static str>> {
        let now = self.db.now();
        if invitation.state(now) != State::Pending {
            return Ok(Some("the invitation is no longer pending"));
        }
        if recipient::store::has_opted_out(&self.db, &invitation.canonical_email).await? {
            return Ok(Some("the recipient opted out of invitations by mail"));
        }
        let mailed = store::mailed_since(&self.db, invitation, now - Duration::DAY).await?;
        let is_over_limit = self.per_recipient_max > 0 && mailed >= self.per_recipient_max;
        Ok(is_over_limit.then_some("the recipient got the maximum of invitations in a day"))
    }

    fn message(&self, invitation: Invitation) -> EmailMessage {
        let inviter = sanitize(&invitation.inviter_name);
        let org = sanitize(&invitation.org_name);
        let role = role_name(invitation.role.0);
        let link = self.links.url(&invitation, LinkKind::Mailed);
        EmailMessage {
            to: invitation.email.0,
            subject: format!("{inviter} invites you to {org}"),
            paragraphs: vec![format!("{inviter} invites you to join {org} as {role}.")],
            quote: Some(invitation.message).filter(|it| !it.is_empty()),
            action: Some(Action { label: "Open the invitation".to_owned(), link }),
            notes: vec![
                format!("The link is valid until {}.", moment(invitation.expires_at)),
                "If you did not expect this mail, you can ignore it.".to_owned(),
            ],
            opt_out: Some(self.opt_out_links.url(&OptOut::Address(invitation.canonical_email))),
            ..EmailMessage::default()
        }
    }
}

/// Date and time with time zone, for example `3 December 2026, 14:05 UTC`.
fn moment(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    let (day, month, year) = (at.day(), at.month(), at.year());
    format!("{day} {month} {year}, {:02}:{:02} UTC", at.hour(), at.minute())
}

/// The beginning of a mail server's reply, which is stored and shown to managers.
fn shortened(reply: &str) -> String {
    reply.chars().take(REPLY_CHARS_MAX).collect()
}
