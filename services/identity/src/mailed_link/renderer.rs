//! Texts of the mails about accounts.

use chassis::{Db, Result};
use identity_rules::mailed_link::{LinkFactory, Purpose};
use mail::{Action, EmailMessage, MailRenderer, QueuedMail, RenderOutcome, sanitize};

use super::store::{self, UnusedLink};

/// Renders the mails about accounts. They concern security, so no preference suppresses them.
pub(crate) struct AccountMailRenderer {
    pub(crate) db: Db,
    pub(crate) links: LinkFactory,
}

/// The text of a mail.
struct Content {
    subject: &'static str,
    /// The paragraph after the greeting; begins in lower case.
    body: &'static str,
    /// The label of the button; `None` for a notice without a link.
    button: Option<&'static str>,
    /// The small print below the button.
    note: &'static str,
}

#[tonic::async_trait]
impl MailRenderer for AccountMailRenderer {
    async fn render(&self, mail: &QueuedMail) -> Result<RenderOutcome> {
        let link_id = mail.subject_id;
        let Some(UnusedLink { link, display_name, is_address_taken }) =
            store::find_unused(&self.db, link_id).await?
        else {
            return Ok(RenderOutcome::Suppress("the link was used or replaced"));
        };
        let is_refused_change = is_address_taken && link.purpose == Purpose::ChangeEmail;
        let Content { subject, body, button, note } =
            if is_refused_change { ADDRESS_TAKEN } else { content(link.purpose) };
        if button.is_some() && link.expires_at <= self.db.now() {
            return Ok(RenderOutcome::Suppress("the link has expired"));
        }
        // Without a name: the owner of the address must not learn which account requested the change.
        let greeting = if is_refused_change {
            "Hello,".to_owned()
        } else {
            format!("Hello {},", sanitize(&display_name))
        };
        let action =
            button.map(|label| Action { label: label.to_owned(), link: self.links.url(&link) });
        Ok(RenderOutcome::Send(Box::new(EmailMessage {
            to: link.email.0,
            subject: subject.to_owned(),
            paragraphs: vec![greeting, body.to_owned()],
            action,
            notes: vec![note.to_owned()],
            ..EmailMessage::default()
        })))
    }
}

/// Text of the mail to the new address of an account, instead of the one with the link, if another account
/// has that address already.
const ADDRESS_TAKEN: Content = Content {
    subject: "This address already has an account",
    body: "somebody, possibly you, requested to change the address of another account to this one. The \
           address already has an account, so nothing was changed.",
    button: None,
    note: "If this was not you, you do not need to do anything.",
};

fn content(purpose: Purpose) -> Content {
    match purpose {
        Purpose::VerifyEmail => Content {
            subject: "Confirm your address",
            body: "please confirm your address within 30 minutes, with the password that you chose, or \
                   with a new one.",
            button: Some("Confirm the address"),
            note: "If you did not create an account, ignore this mail: nobody else can confirm it.",
        },
        Purpose::ResetPassword => Content {
            subject: "Set a new password",
            body: "you can set a new password within 30 minutes.",
            button: Some("Set a new password"),
            note: "If you did not request this, ignore this mail: your password stays unchanged.",
        },
        Purpose::ChangeEmail => Content {
            subject: "Confirm your new address",
            body: "please confirm within 30 minutes that your account shall use this address.",
            button: Some("Change the address"),
            note: "If you did not request this, ignore this mail.",
        },
        Purpose::AlreadyRegistered => Content {
            subject: "You already have an account",
            body: "somebody, possibly you, tried to create an account with this address. It already has \
                   one: sign in, or request a new password.",
            button: None,
            note: "If this was not you, you do not need to do anything.",
        },
        Purpose::ChangeRequested => Content {
            subject: "A change of your address was requested",
            body: "somebody, possibly you, requested to change the address of your account to another one. \
                   It changes when the link that was mailed to the new address is followed, within 30 \
                   minutes.",
            button: None,
            note: "If this was not you, cancel the change in your account, and set a new password at once.",
        },
        Purpose::AddressChanged => Content {
            subject: "The address of your account was changed",
            body: "your account now has another address, and all its sessions have been ended.",
            button: None,
            note: "If this was not you, contact your administrator at once.",
        },
    }
}
