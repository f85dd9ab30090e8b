//! Mail rules: mails about events to team inboxes and on-call lists.

pub(crate) mod rpc;
pub(crate) mod store;

use std::collections::BTreeSet;

use api::notification as pb;
use chassis::{Changed, Error, EventTarget, OrgId, ProjectId, Result, email, timestamp};
use prost::{Message, Name};
use time::OffsetDateTime;

use super::{
    catalogue,
    scope::{Scope, check_limit},
};

chassis::id!(
    /// Identifies a mail rule.
    MailRuleId,
    "mail_rule"
);

/// Largest number of mail rules of one organization.
const RULES_MAX: i64 = 100;

/// A subscription of e-mail addresses to the events of an organization or a project.
#[derive(Clone, Debug)]
pub(crate) struct MailRule {
    pub(crate) id: MailRuleId,
    pub(crate) org_id: OrgId,
    pub(crate) project_id: Option<ProjectId>,
    /// E-mail addresses of team inboxes or people.
    pub(crate) recipients: Vec<String>,
    /// Names of notification types; empty for all.
    pub(crate) event_types: Vec<String>,
    pub(crate) description: String,
    pub(crate) enabled: bool,
    pub(crate) created_at: OffsetDateTime,
}

/// Returns the recipients, each mailbox once, if every one is an e-mail address.
fn checked_recipients(recipients: &[String]) -> Result<Vec<String>> {
    let mut mailboxes = BTreeSet::new();
    let mut checked = vec![];
    for recipient in recipients {
        let Some(address) = email::parse(recipient) else {
            let message = format!("must be valid e-mail addresses; \"{recipient}\" is not one");
            return Err(Error::invalid("recipients", message));
        };
        if mailboxes.insert(address.canonical) {
            checked.push(recipient.clone());
        }
    }
    Ok(checked)
}

/// Fields of a mail rule that a request sets.
pub(crate) struct Fields<'a> {
    pub(crate) recipients: &'a [String],
    pub(crate) event_types: &'a [String],
    pub(crate) description: &'a str,
    pub(crate) enabled: bool,
}

impl MailRule {
    /// Creates a mail rule.
    pub(crate) fn create(
        scope: Scope,
        fields: &Fields<'_>,
        existing_count: i64,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>> {
        check_limit(existing_count, RULES_MAX, "mail rules")?;
        let rule = Self {
            id: MailRuleId::new(),
            org_id: scope.org_id,
            project_id: scope.project_id,
            recipients: checked_recipients(fields.recipients)?,
            event_types: catalogue::subscribable(fields.event_types)?,
            description: fields.description.to_owned(),
            enabled: fields.enabled,
            created_at: now,
        };
        let event = pb::MailRuleCreated { after: Some((&rule).into()) };
        Ok(rule.with_event(&event))
    }

    /// Changes the fields that the mask names.
    pub(crate) fn update(mut self, fields: &Fields<'_>, paths: &[&str]) -> Result<Changed<Self>> {
        let before = Some((&self).into());
        for path in paths {
            match *path {
                "recipients" if fields.recipients.is_empty() => {
                    return Err(Error::invalid("recipients", "must not be empty"));
                }
                "recipients" => self.recipients = checked_recipients(fields.recipients)?,
                "event_types" => self.event_types = catalogue::subscribable(fields.event_types)?,
                "description" => fields.description.clone_into(&mut self.description),
                _ => self.enabled = fields.enabled,
            }
        }
        let event = pb::MailRuleUpdated { before, after: Some((&self).into()) };
        Ok(self.with_event(&event))
    }

    /// Deletes the mail rule.
    pub(crate) fn delete(self) -> Changed<Self> {
        let event = pb::MailRuleDeleted { before: Some((&self).into()) };
        self.with_event(&event)
    }

    /// The event of a mail to one of the recipients that is not retried any more.
    pub(crate) fn mail_failed(self, address: &str, said: String) -> Changed<Self> {
        let email = address.to_owned();
        let event = pb::MailRuleMailFailed { after: Some((&self).into()), email, said };
        self.with_event(&event)
    }

    fn with_event<E: Message + Name>(self, event: &E) -> Changed<Self> {
        let scope = Scope { org_id: self.org_id, project_id: self.project_id };
        let object = EventTarget::object("mail_rule", self.id, &self.description);
        Changed::new(self, event, scope.add_to(object))
    }
}

impl From<&MailRule> for pb::MailRule {
    fn from(rule: &MailRule) -> Self {
        Self {
            id: rule.id.into(),
            org_id: rule.org_id.into(),
            project_id: rule.project_id.map(String::from).unwrap_or_default(),
            recipients: rule.recipients.clone(),
            event_types: rule.event_types.clone(),
            description: rule.description.clone(),
            enabled: rule.enabled,
            create_time: Some(timestamp(rule.created_at)),
        }
    }
}
