//! The mails about accounts.

use chassis::{
    Db, Result,
    mail::{Action, Draft, Letter, Order, Writer, plain},
};

use super::{
    Links, Purpose,
    store::{self, Wanted},
};

/// Writes the mails about accounts. They are security notices: nobody can switch them off.
pub(crate) struct Mails {
    pub(crate) db: Db,
    pub(crate) links: Links,
}

#[tonic::async_trait]
impl Writer for Mails {
    async fn write(&self, order: &Order) -> Result<Draft> {
        let Some(Wanted { link: it, display_name, is_taken }) =
            store::wanted(&self.db, order.subject_id).await?
        else {
            return Ok(Draft::Suppress("the link was used or replaced"));
        };
        let taken = is_taken && it.purpose == Purpose::Change;
        let Words { subject, said, button, note } = if taken { TAKEN } else { words(it.purpose) };
        // The owner of a taken address does not learn who wanted it.
        let greeting =
            if taken { "Hello,".to_owned() } else { format!("Hello {},", plain(&display_name)) };
        let action = button.map(|label| Action {
            label: label.to_owned(),
            link: self.links.link(it.purpose, it.id),
        });
        Ok(Draft::Send(Box::new(Letter {
            to: it.email.0,
            subject: subject.to_owned(),
            paragraphs: vec![greeting, said.to_owned()],
            action,
            notes: vec![note.to_owned()],
            ..Letter::default()
        })))
    }
}

struct Words {
    subject: &'static str,
    said: &'static str,
    button: Option<&'static str>,
    note: &'static str,
}

/// Instead of the link of a change of address, to an address that has an account.
const TAKEN: Words = Words {
    subject: "This address has an account already",
    said: "somebody, perhaps you, wanted to move another account to this address. It has an account \
           already, so nothing changed.",
    button: None,
    note: "If it was not you, there is nothing to do.",
};

fn words(purpose: Purpose) -> Words {
    let (subject, said, button, note) = match purpose {
        Purpose::Verify => (
            "Confirm your address",
            "confirm your address within 30 minutes.",
            Some("Confirm the address"),
            "If you did not open an account, ignore this mail.",
        ),
        Purpose::Reset => (
            "Set a new password",
            "set a new password within 30 minutes.",
            Some("Set a new password"),
            "If you did not ask for it, ignore this mail: your password stays as it is.",
        ),
        Purpose::Change => (
            "Confirm your new address",
            "move your account to this address within 30 minutes.",
            Some("Move the account"),
            "If you did not ask for it, ignore this mail.",
        ),
        Purpose::ToldRegistered => (
            "You have an account already",
            "somebody, perhaps you, tried to open an account with this address. It has one already: sign \
             in, or ask for a new password.",
            None,
            "If it was not you, there is nothing to do.",
        ),
        Purpose::ToldChanged => (
            "Your account moved to another address",
            "your account has another address from now on, and every other session has ended.",
            None,
            "If it was not you, tell your administrator at once.",
        ),
    };
    Words { subject, said, button, note }
}
