//! The mails about accounts.

use std::sync::Arc;

use chassis::{
    Db, Result,
    mail::{Letter, Write},
};
use uuid::Uuid;

use super::{Links, Purpose, store};

/// Makes the mail of a link.
pub(crate) fn writer(db: Db, links: Links) -> Write {
    Arc::new(move |_template, id| Box::pin(write(db.clone(), links.clone(), id)))
}

async fn write(db: Db, links: Links, id: Uuid) -> Result<Option<Letter>> {
    let Some((it, name)) = store::wanted(&db, id).await? else { return Ok(None) };
    let link = links.link(it.purpose, it.id);
    let (subject, body) = match it.purpose {
        Purpose::Verify => (
            "Confirm your address",
            format!(
                "confirm your address within 30 minutes by opening this link:\n\n{link}\n\n\
                 If you did not open an account, ignore this mail."
            ),
        ),
        Purpose::Reset => (
            "Set a new password",
            format!(
                "set a new password within 30 minutes by opening this link:\n\n{link}\n\n\
                 If you did not ask for it, ignore this mail: your password stays as it is."
            ),
        ),
        Purpose::Change => (
            "Confirm your new address",
            format!(
                "move your account to this address within 30 minutes by opening this link:\n\n{link}\n\n\
                 If you did not ask for it, ignore this mail."
            ),
        ),
        Purpose::ToldRegistered => (
            "You have an account already",
            "somebody, perhaps you, tried to open an account with this address. It has one already: sign \
             in, or ask for a new password.\n\nIf it was not you, there is nothing to do."
                .to_owned(),
        ),
        Purpose::ToldChanged => (
            "Your account moved to another address",
            "your account has another address from now on, and every other session has ended.\n\n\
             If it was not you, tell your administrator at once."
                .to_owned(),
        ),
        Purpose::ToldTaken => (
            "This address has an account already",
            "somebody, perhaps you, wanted to move another account to this address. It has an account \
             already, so nothing changed."
                .to_owned(),
        ),
    };
    let text = format!("Hello {name},\n\n{body}\n");
    Ok(Some(Letter { to: it.email.0, subject: subject.to_owned(), text }))
}
