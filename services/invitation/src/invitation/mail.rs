//! The mail that carries the link of an invitation.

use std::sync::Arc;

use chassis::{
    Db, Result,
    mail::{Letter, Write},
};
use uuid::Uuid;

use super::{State, store};
use crate::link::Links;

/// Makes the mail of an invitation, as long as it is pending.
pub(crate) fn writer(db: Db, links: Links) -> Write {
    Arc::new(move |_template, id| Box::pin(letter(db.clone(), links.clone(), id)))
}

async fn letter(db: Db, links: Links, id: Uuid) -> Result<Option<Letter>> {
    let Some(it) = store::get_by_link(&db, id).await? else { return Ok(None) };
    if it.state(db.now()) != State::Pending {
        return Ok(None);
    }
    let note = if it.message.is_empty() { String::new() } else { format!("\n{}\n", it.message) };
    let text = format!(
        "{} invites you to join {}.\n{note}\nOpen this link to accept:\n\n{}\n\n\
         The link works until {} (UTC).\n",
        it.inviter_name,
        it.org_name,
        links.link(id),
        it.expires_at.date(),
    );
    let subject = format!("{} invites you to {}", it.inviter_name, it.org_name);
    Ok(Some(Letter { to: it.email.0, subject, text }))
}
