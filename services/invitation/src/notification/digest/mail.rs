//! Rendering of mails about events, with the items that their recipient may see at that time.

use std::collections::BTreeMap;

use api::{identity::ListAudienceResponse, notification::NotificationCategory};
use chassis::{Db, Result, Tx, UserId, channel::ServiceChannel, email};
use mail::{EmailMessage, QueuedMail, RenderOutcome, sanitize};
use time::Duration;

use super::{
    RULE_MAILS_MAX,
    store::{self, Digest, Item},
};
use crate::{
    notification::{
        audience::{self, AudienceQuery},
        mail_rule,
    },
    recipient::{self, OptOut, OptOutLinks},
};

/// Largest number of characters of a mail server's reply that are stored.
const REPLY_CHARS_MAX: usize = 500;

/// Renderer of mails about events.
pub(crate) struct DigestMails {
    pub(crate) db: Db,
    pub(crate) identity: ServiceChannel,
    pub(crate) opt_out_links: OptOutLinks,
}

/// The part of a mail that its recipient may see.
#[derive(Default)]
struct Visible {
    /// E-mail address of the recipient at this time.
    email: Option<String>,
    org_name: String,
    items: Vec<mail::DigestItem>,
}

impl DigestMails {
    /// Renders a mail, or suppresses it if its recipient may see nothing of it any more.
    pub(crate) async fn render(&self, mail: &QueuedMail) -> Result<RenderOutcome> {
        let Some((digest, items)) = store::get(&self.db, mail.subject_id).await? else {
            return Ok(RenderOutcome::Suppress("its events were deleted"));
        };
        if let Some(reason) = self.suppression(&digest).await? {
            return Ok(RenderOutcome::Suppress(reason));
        }
        let visible = self.visible(&digest, items).await?;
        match visible.email {
            Some(to) if !visible.items.is_empty() => {
                let message =
                    self.message(&digest, to, &sanitize(&visible.org_name), visible.items);
                Ok(RenderOutcome::Send(Box::new(message)))
            }
            _ => Ok(RenderOutcome::Suppress(
                "its recipient no longer has the permission to see its events",
            )),
        }
    }

    /// Records that the mail server of a mail rule's address permanently rejected a mail, so that no further
    /// mails of the organization are sent to the address, and reports it to the managers of the rule.
    pub(crate) async fn bounced(
        &self,
        tx: &mut Tx,
        mail: &QueuedMail,
        error_message: &str,
    ) -> Result<()> {
        let Some((digest, _)) = store::get(&self.db, mail.subject_id).await? else { return Ok(()) };
        let address = digest.address.as_deref().and_then(email::parse);
        let (Some(org_id), Some(address)) = (digest.org_id, address) else { return Ok(()) };
        let reply: String = error_message.chars().take(REPLY_CHARS_MAX).collect();
        recipient::store::silence(tx, org_id, &address.canonical, &reply).await?;
        report_failure(tx, &digest, reply).await
    }

    /// Reports a mail of a mail rule that was not accepted within five days to the managers of the rule.
    pub(crate) async fn failed(
        &self,
        tx: &mut Tx,
        mail: &QueuedMail,
        error_message: &str,
    ) -> Result<()> {
        let Some((digest, _)) = store::get(&self.db, mail.subject_id).await? else { return Ok(()) };
        let message = error_message.chars().take(REPLY_CHARS_MAX).collect();
        report_failure(tx, &digest, message).await
    }

    fn message(
        &self,
        digest: &Digest,
        to: String,
        org_name: &str,
        items: Vec<mail::DigestItem>,
    ) -> EmailMessage {
        let subject = match items.as_slice() {
            [item] => item.title.clone(),
            items => format!("{} notifications", items.len()),
        };
        let subject = if org_name.is_empty() { subject } else { format!("[{org_name}] {subject}") };
        let note = if digest.rule_id.is_some() {
            "You receive this mail because a mail rule of the organization contains this address."
        } else {
            "You can change which mails you receive in your notification preferences."
        };
        let opt_out = opt_out(digest, &to).map(|it| self.opt_out_links.url(&it));
        let notes = vec![note.to_owned()];
        EmailMessage { to, subject, items, notes, opt_out, ..EmailMessage::default() }
    }

    /// Reason for not sending the mail, if there is one.
    async fn suppression(&self, digest: &Digest) -> Result<Option<&'static str>> {
        if let (Some(user_id), Some(category)) = (digest.user_id, digest.category)
            && recipient::store::is_turned_off(&self.db, user_id, category.0).await?
        {
            return Ok(Some("the recipient turned the mails of this category off"));
        }
        let (Some(rule_id), Some(address)) = (digest.rule_id, &digest.address) else {
            return Ok(None);
        };
        if !mail_rule::store::is_enabled(&self.db, digest.org_id, rule_id).await? {
            return Ok(Some("the mail rule was deleted or disabled"));
        }
        let canonical = email::parse(address).map(|it| it.canonical).unwrap_or_default();
        let org_id = digest.org_id;
        if recipient::store::is_undeliverable(&self.db, org_id, &canonical).await? {
            return Ok(Some("the recipient opted out, or its mail server rejected a mail"));
        }
        let since = self.db.now() - Duration::HOUR;
        let sent = store::rule_mails_sent_since(&self.db, digest.org_id, since).await?;
        Ok((sent >= RULE_MAILS_MAX).then_some("the organization sent too many mails in an hour"))
    }

    /// Selects the items that the recipient may see now. Each pair of project and permission is checked once.
    async fn visible(&self, digest: &Digest, items: Vec<Item>) -> Result<Visible> {
        let mut visible = Visible::default();
        let mut audiences: BTreeMap<_, ListAudienceResponse> = BTreeMap::new();
        for item in items {
            let key = (item.project_id, item.permission.clone());
            if !audiences.contains_key(&key) {
                audiences.insert(key.clone(), self.list_audience(digest, &item).await?);
            }
            let Some(audience) = audiences.get(&key) else { continue };
            visible.org_name.clone_from(&audience.org_name);
            let Some(email) = permitted_email(digest, &item.permission, audience) else { continue };
            visible.email = Some(email);
            let title = sanitize(&item.title);
            visible.items.push(mail::DigestItem { title, body: item.body });
        }
        Ok(visible)
    }

    async fn list_audience(&self, digest: &Digest, item: &Item) -> Result<ListAudienceResponse> {
        let query = AudienceQuery {
            org_id: digest.org_id,
            project_id: item.project_id,
            permission: &item.permission,
            emails: digest.address.iter().cloned().collect(),
            user_ids: digest.user_id.iter().map(ToString::to_string).collect(),
        };
        audience::list(&self.identity, query).await
    }
}

/// Emits the event of a mail of a mail rule that is not retried any more. A mail to a person has none: the
/// notifications of its events are in the person's list, too.
async fn report_failure(tx: &mut Tx, digest: &Digest, message: String) -> Result<()> {
    let (Some(org_id), Some(rule_id), Some(address)) =
        (digest.org_id, digest.rule_id, &digest.address)
    else {
        return Ok(());
    };
    if let Some(rule) = mail_rule::store::get(tx, org_id, rule_id).await? {
        tx.emit(rule.mail_failed(address, message));
    }
    Ok(())
}

/// Mails that the link of a mail turns off: those of mail rules to the address, or those of the category to
/// the person. Security notices cannot be turned off (NO-13).
fn opt_out(digest: &Digest, to: &str) -> Option<OptOut> {
    if digest.rule_id.is_some() {
        return email::parse(to).map(|it| OptOut::Address(it.canonical));
    }
    let category = digest.category?.0;
    let user_id = UserId(digest.user_id?);
    let can_be_turned_off = category != NotificationCategory::Security;
    can_be_turned_off.then_some(OptOut::Category { user_id, category })
}

/// The e-mail address to which an item may be sent: the present one of the account, or the address of the
/// mail rule unless it belongs to an account without the permission.
fn permitted_email(
    digest: &Digest,
    permission: &str,
    audience: &ListAudienceResponse,
) -> Option<String> {
    let Some(user_id) = digest.user_id.map(|it| it.to_string()) else {
        let address = digest.address.as_ref()?;
        return (!audience.barred_emails.contains(address)).then(|| address.clone());
    };
    // An event that affects the account itself needs no permission.
    let people = if permission.is_empty() { &audience.accounts } else { &audience.listeners };
    people.iter().find(|it| it.user_id == user_id).map(|it| it.email.clone())
}
