//! The mails about accounts.

use std::sync::Arc;

use chassis::{
    Db, Result,
    mail::{Letter, Write},
};
use uuid::Uuid;

use super::{Links, store};

/// Makes the mail that confirms an address.
pub(crate) fn writer(db: Db, links: Links) -> Write {
    Arc::new(move |_template, verification_id| {
        Box::pin(verify(db.clone(), links.clone(), verification_id))
    })
}

async fn verify(db: Db, links: Links, verification_id: Uuid) -> Result<Option<Letter>> {
    let Some(user) = store::addressee(&db, verification_id).await? else { return Ok(None) };
    let text = format!(
        "Hello {},\n\nconfirm your address within 30 minutes by opening this link:\n\n{}\n\n\
         If you did not open an account, ignore this mail.\n",
        user.display_name,
        links.link(verification_id)
    );
    Ok(Some(Letter { to: user.email.0, subject: "Confirm your address".to_owned(), text }))
}
