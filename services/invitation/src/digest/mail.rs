//! Writes the mails that tell of events, with what their recipient may see when they leave.

use std::collections::BTreeMap;

use api::identity::{
    ListAudienceRequest, ListAudienceResponse, access_service_client::AccessServiceClient,
};
use chassis::{
    Db, OrgId, ProjectId, Result, Tx, email,
    error::remote,
    link::Link,
    mail::{Draft, Item, Letter, Order, plain},
};
use time::Duration;

use super::{
    RULE_MAILS_MAX,
    store::{self, Digest},
};
use crate::{link::Links, mail_rule, recipient};

/// Writes these mails.
pub(crate) struct Mails {
    pub(crate) db: Db,
    pub(crate) identity: Link,
    pub(crate) links: Links,
}

impl Mails {
    pub(crate) async fn write(&self, order: &Order) -> Result<Draft> {
        let Some((digest, items)) = store::get(&self.db, order.subject_id).await? else {
            return Ok(Draft::Suppress("what it told of is gone"));
        };
        if let Some(why) = self.unwanted(&digest).await? {
            return Ok(Draft::Suppress(why));
        }
        let (mut told, mut to, mut org) = (vec![], digest.address.clone(), String::new());
        let mut answers: BTreeMap<(Option<ProjectId>, String), ListAudienceResponse> =
            BTreeMap::new();
        for item in items {
            let place = (item.project_id, item.permission.clone());
            if !answers.contains_key(&place) {
                answers.insert(place.clone(), self.ask(&digest, &place).await?);
            }
            let Some(answer) = answers.get(&place) else { continue };
            org.clone_from(&answer.org_name);
            let Some(address) = allowed(&digest, &item.permission, answer) else { continue };
            to = Some(address);
            told.push(Item { title: plain(&item.title), body: item.body });
        }
        let Some(to) = to.filter(|_| !told.is_empty()) else {
            return Ok(Draft::Suppress("its recipient may no longer see what it told of"));
        };
        Ok(Draft::Send(Box::new(self.letter(&digest, (to, plain(&org)), told))))
    }

    /// The address of a rule's mail is refused for good: it gets no more of them.
    pub(crate) async fn bounced(&self, tx: &mut Tx, order: &Order) -> Result<()> {
        let digest = store::get(&self.db, order.subject_id).await?;
        let address = digest.and_then(|it| it.0.address).and_then(|it| email::parse(&it));
        match address {
            Some(it) => recipient::store::bounce(tx, &it.canonical).await,
            None => Ok(()),
        }
    }

    fn letter(&self, digest: &Digest, (to, org): (String, String), told: Vec<Item>) -> Letter {
        let subject = match told.as_slice() {
            [one] => one.title.clone(),
            more => format!("{} things happened", more.len()),
        };
        let subject = if org.is_empty() { subject } else { format!("[{org}] {subject}") };
        let note = if digest.rule_id.is_some() {
            "You get this because an e-mail rule of the organization names this address."
        } else {
            "How you are told is in your notification preferences."
        };
        let canonical = email::parse(&to).map(|it| it.canonical).unwrap_or_default();
        let opt_out = digest.rule_id.map(|_| self.links.opt_out(&canonical));
        let notes = vec![note.to_owned()];
        Letter { to, subject, items: told, notes, opt_out, ..Letter::default() }
    }

    /// Why the mail of a rule is not sent, if it is not.
    async fn unwanted(&self, digest: &Digest) -> Result<Option<&'static str>> {
        let (Some(rule_id), Some(address)) = (digest.rule_id, &digest.address) else {
            return Ok(None);
        };
        if !mail_rule::store::enabled(&self.db, digest.org_id, rule_id).await? {
            return Ok(Some("the rule is gone, or disabled"));
        }
        let canonical = email::parse(address).map(|it| it.canonical).unwrap_or_default();
        if recipient::store::silent(&self.db, &canonical).await? {
            return Ok(Some("the recipient wants no such mails, or gets none"));
        }
        let since = self.db.now() - Duration::HOUR;
        let sent = store::sent_since(&self.db, digest.org_id, since).await?;
        Ok((sent >= RULE_MAILS_MAX).then_some("the organization sent too many mails in an hour"))
    }

    async fn ask(
        &self,
        digest: &Digest,
        (project_id, permission): &(Option<ProjectId>, String),
    ) -> Result<ListAudienceResponse> {
        let permission = if permission.is_empty() { "org.view" } else { permission };
        let project_id = project_id.filter(|_| permission.starts_with("project."));
        let request = ListAudienceRequest {
            org_id: digest.org_id.unwrap_or(OrgId(uuid::Uuid::nil())).into(),
            project_id: project_id.map(String::from).unwrap_or_default(),
            permission: permission.to_owned(),
            emails: digest.address.iter().cloned().collect(),
            user_ids: digest.user_id.iter().map(ToString::to_string).collect(),
        };
        let mut request = tonic::Request::new(request);
        request.set_timeout(std::time::Duration::from_secs(10));
        let mut identity = AccessServiceClient::new(self.identity.clone());
        let answer = identity.list_audience(request).await;
        Ok(answer.map_err(remote("identity"))?.into_inner())
    }
}

/// Where an item goes, if its recipient may see it: a person at the address they have now, or an address
/// that is nobody's who may not.
fn allowed(digest: &Digest, permission: &str, answer: &ListAudienceResponse) -> Option<String> {
    let Some(user_id) = digest.user_id.map(|it| it.to_string()) else {
        let address = digest.address.as_ref()?;
        return (!answer.barred_emails.contains(address)).then(|| address.clone());
    };
    // What happened to themselves they are told wherever they are; the rest, while they may see it.
    let who = if permission.is_empty() { &answer.accounts } else { &answer.listeners };
    who.iter().find(|it| it.user_id == user_id).map(|it| it.email.clone())
}
