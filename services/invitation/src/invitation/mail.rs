//! The mail that carries the link of an invitation.

use chassis::{
    Db, Result, Tx,
    mail::{Action, Draft, Letter, Order, plain},
};
use time::Duration;

use super::{State, store};
use crate::{
    link::{Links, Way},
    recipient,
};

/// Writes the mails of invitations.
pub(crate) struct Mails {
    pub(crate) db: Db,
    pub(crate) links: Links,
    /// Invitations to one address in a day; 0 means no limit.
    pub(crate) recipient_max: i64,
}

impl Mails {
    /// The mail of an invitation, as long as it is pending and its recipient wants it.
    pub(crate) async fn write(&self, order: &Order) -> Result<Draft> {
        let Some(it) = store::get_by_link(&self.db, order.subject_id).await? else {
            return Ok(Draft::Suppress("the invitation is gone"));
        };
        let now = self.db.now();
        if it.state(now) != State::Pending {
            return Ok(Draft::Suppress("the invitation is no longer pending"));
        }
        if recipient::store::opted_out(&self.db, &it.canonical_email).await? {
            return Ok(Draft::Suppress("the recipient wants no invitations by mail"));
        }
        let mailed = store::mailed_since(&self.db, &it, now - Duration::DAY).await?;
        if self.recipient_max > 0 && mailed >= self.recipient_max {
            return Ok(Draft::Suppress(
                "the recipient got as many invitations as they may in a day",
            ));
        }
        let (who, org) = (plain(&it.inviter_name), plain(&it.org_name));
        let note = "If you do not know why you got this, ignore it: nothing happens without you.";
        Ok(Draft::Send(Box::new(Letter {
            to: it.email.0,
            subject: format!("{who} invites you to {org}"),
            paragraphs: vec![format!("{who} invites you to join {org} as {}.", role(it.role))],
            quote: Some(it.message).filter(|it| !it.is_empty()),
            action: Some(Action {
                label: "Open the invitation".to_owned(),
                link: self.links.link(order.subject_id, Way::Mailed),
            }),
            notes: vec![
                format!("The link works until {} (UTC).", it.expires_at.date()),
                note.to_owned(),
            ],
            opt_out: Some(self.links.opt_out(&it.canonical_email)),
            ..Letter::default()
        })))
    }

    /// The recipient's server refuses the mail for good.
    pub(crate) async fn bounced(&self, tx: &mut Tx, order: &Order, why: &str) -> Result<()> {
        let Some(it) = store::lock_by_link(tx, order.subject_id).await? else { return Ok(()) };
        recipient::store::bounce(tx, &it.canonical_email).await?;
        store::update(tx, it.bounce(why, tx.now)).await?;
        Ok(())
    }
}

/// A role in a sentence.
pub(crate) fn role(role: i32) -> &'static str {
    use api::identity::OrgRole;
    match OrgRole::try_from(role) {
        Ok(OrgRole::Admin) => "Admin",
        Ok(OrgRole::Developer) => "Developer",
        Ok(OrgRole::Viewer) => "Viewer",
        _ => "member",
    }
}
