//! E-mail rules: team inboxes and on-call lists that are mailed about events.

pub(crate) mod rpc;
pub(crate) mod store;

use api::{error::Reason, invitation as pb};
use chassis::{About, Changed, Code, Error, OrgId, ProjectId, Refusal, Result, email, timestamp};
use time::OffsetDateTime;

use crate::catalogue;

chassis::id!(
    /// Identifies an e-mail rule.
    MailRuleId,
    "e-mail rule"
);

/// Rules of one organization.
const RULES_MAX: i64 = 100;

/// Who is mailed about what.
#[derive(Clone, Debug)]
pub(crate) struct MailRule {
    pub(crate) id: MailRuleId,
    pub(crate) org_id: OrgId,
    pub(crate) project_id: Option<ProjectId>,
    pub(crate) recipients: Vec<String>,
    pub(crate) event_types: Vec<String>,
    pub(crate) description: String,
    pub(crate) enabled: bool,
    pub(crate) created_at: OffsetDateTime,
}

/// Why a rule is not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the organization has {0} e-mail rules, and may not have more; delete one")]
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

/// Addresses, if each of them is one.
fn addresses(recipients: &[String]) -> Result<Vec<String>> {
    match recipients.iter().find(|it| email::parse(it).is_none()) {
        Some(it) => Err(Error::invalid("recipients", format!("{it:?} is no e-mail address"))),
        None => Ok(recipients.to_vec()),
    }
}

impl MailRule {
    /// A new rule.
    pub(crate) fn create(
        (org_id, project_id): (OrgId, Option<ProjectId>),
        request: &pb::CreateMailRuleRequest,
        others: i64,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>> {
        if others >= RULES_MAX {
            return Err(Refused::TooMany(others).into());
        }
        let it = Self {
            id: MailRuleId::new(),
            org_id,
            project_id,
            recipients: addresses(&request.recipients)?,
            event_types: catalogue::for_hooks(&request.event_types)?,
            description: request.description.clone(),
            enabled: true,
            created_at: now,
        };
        let event = pb::MailRuleCreated { after: Some((&it).into()) };
        let about = it.about();
        Ok(Changed::new(it, &event, about))
    }

    /// Something about it is different from now on.
    pub(crate) fn change(
        mut self,
        request: &pb::UpdateMailRuleRequest,
        paths: &[&str],
    ) -> Result<Changed<Self>> {
        let before = Some((&self).into());
        for path in paths {
            match *path {
                "recipients" if request.recipients.is_empty() => {
                    return Err(Error::invalid("recipients", "must not be empty"));
                }
                "recipients" => self.recipients = addresses(&request.recipients)?,
                "event_types" => self.event_types = catalogue::for_hooks(&request.event_types)?,
                "description" => self.description.clone_from(&request.description),
                _ => self.enabled = request.enabled,
            }
        }
        let event = pb::MailRuleUpdated { before, after: Some((&self).into()) };
        let about = self.about();
        Ok(Changed::new(self, &event, about))
    }

    /// It is gone.
    pub(crate) fn delete(self) -> Changed<Self> {
        let event = pb::MailRuleDeleted { before: Some((&self).into()) };
        let about = self.about();
        Changed::new(self, &event, about)
    }

    fn about(&self) -> About {
        let about = About::object("mail_rule", self.id, &self.description).of(self.org_id);
        match self.project_id {
            Some(project_id) => about.in_project(project_id),
            None => about,
        }
    }
}

impl From<&MailRule> for pb::MailRule {
    fn from(it: &MailRule) -> Self {
        Self {
            id: it.id.into(),
            org_id: it.org_id.into(),
            project_id: it.project_id.map(String::from).unwrap_or_default(),
            recipients: it.recipients.clone(),
            event_types: it.event_types.clone(),
            description: it.description.clone(),
            enabled: it.enabled,
            create_time: Some(timestamp(it.created_at)),
        }
    }
}
