//! Mail rules: mails about events to team inboxes and on-call lists.

pub(crate) mod rpc;
pub(crate) mod store;

use api::{error::Reason, notification as pb};
use chassis::{
    Changed, Code, Error, EventTarget, OrgId, ProjectId, Refusal, Result, email, timestamp,
};
use time::OffsetDateTime;

use super::{catalogue, scope::Scope};

chassis::id!(
    /// Identifies a mail rule.
    MailRuleId,
    "mail_rule"
);

/// Mail rules of one organization.
const RULES_MAX: i64 = 100;

/// Addresses that receive mails about events of an organization or a project.
#[derive(Clone, Debug)]
pub(crate) struct MailRule {
    pub(crate) id: MailRuleId,
    pub(crate) org_id: OrgId,
    pub(crate) project_id: Option<ProjectId>,
    /// E-mail addresses.
    pub(crate) recipients: Vec<String>,
    /// Names of notification types; empty for all.
    pub(crate) event_types: Vec<String>,
    pub(crate) description: String,
    pub(crate) enabled: bool,
    pub(crate) created_at: OffsetDateTime,
}

/// Reasons for refusing a new mail rule.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the organization has {0} mail rules, which is the maximum; delete one first")]
    TooMany(i64),
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        Code::ResourceExhausted
    }

    fn reason(&self) -> Reason {
        Reason::HookLimitReached
    }
}

/// Checks that every recipient is an e-mail address.
fn validated(recipients: &[String]) -> Result<Vec<String>> {
    match recipients.iter().find(|it| email::parse(it).is_none()) {
        Some(recipient) => {
            let message = format!("must be valid e-mail addresses; {recipient:?} is not one");
            Err(Error::invalid("recipients", message))
        }
        None => Ok(recipients.to_vec()),
    }
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
        if existing_count >= RULES_MAX {
            return Err(Refused::TooMany(existing_count).into());
        }
        let rule = Self {
            id: MailRuleId::new(),
            org_id: scope.org_id,
            project_id: scope.project_id,
            recipients: validated(fields.recipients)?,
            event_types: catalogue::subscribable(fields.event_types)?,
            description: fields.description.to_owned(),
            enabled: fields.enabled,
            created_at: now,
        };
        let event = pb::MailRuleCreated { after: Some((&rule).into()) };
        let target = rule.event_target();
        Ok(Changed::new(rule, &event, target))
    }

    /// Changes the fields that the mask names.
    pub(crate) fn update(mut self, fields: &Fields<'_>, paths: &[&str]) -> Result<Changed<Self>> {
        let before = Some((&self).into());
        for path in paths {
            match *path {
                "recipients" if fields.recipients.is_empty() => {
                    return Err(Error::invalid("recipients", "must not be empty"));
                }
                "recipients" => self.recipients = validated(fields.recipients)?,
                "event_types" => self.event_types = catalogue::subscribable(fields.event_types)?,
                "description" => fields.description.clone_into(&mut self.description),
                _ => self.enabled = fields.enabled,
            }
        }
        let event = pb::MailRuleUpdated { before, after: Some((&self).into()) };
        let target = self.event_target();
        Ok(Changed::new(self, &event, target))
    }

    /// Deletes the mail rule.
    pub(crate) fn delete(self) -> Changed<Self> {
        let event = pb::MailRuleDeleted { before: Some((&self).into()) };
        let target = self.event_target();
        Changed::new(self, &event, target)
    }

    fn event_target(&self) -> EventTarget {
        let scope = Scope { org_id: self.org_id, project_id: self.project_id };
        scope.add_to(EventTarget::object("mail_rule", self.id, &self.description))
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
