//! Scope of webhooks, mail rules and alerts: an organization, or one of its projects.

pub(super) mod store;

use api::error::Reason;
use chassis::{Code, EventTarget, OrgId, ProjectId, Refusal, ScopeGrant};

use super::catalogue::Notification;

/// An organization, or one of its projects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope {
    pub(crate) org_id: OrgId,
    pub(crate) project_id: Option<ProjectId>,
}

impl Scope {
    /// The scope that a caller has access to.
    pub(crate) fn of_grant(grant: &ScopeGrant) -> Self {
        Self { org_id: grant.org_id(), project_id: grant.project_id() }
    }

    /// The scope of a notification; `None` if its event belongs to an account.
    pub(crate) fn of_notification(notification: &Notification) -> Option<Self> {
        Some(Self { org_id: notification.org_id?, project_id: notification.project_id })
    }

    /// Adds the scope to the target of an event.
    pub(crate) fn add_to(self, target: EventTarget) -> EventTarget {
        let target = target.in_org(self.org_id);
        match self.project_id {
            Some(project_id) => target.in_project(project_id),
            None => target,
        }
    }
}

/// Error of the creation of a webhook or a mail rule in an organization that has the largest number of them.
#[derive(Debug, thiserror::Error)]
#[error("the organization has {max} {plural}, which is the maximum; delete one first")]
pub(crate) struct LimitReached {
    max: i64,
    /// Noun in the message, for example `webhooks`.
    plural: &'static str,
}

impl Refusal for LimitReached {
    fn code(&self) -> Code {
        Code::ResourceExhausted
    }

    fn reason(&self) -> Reason {
        Reason::HookLimitReached
    }
}

/// Refuses to create a further object in an organization that has `count` of them already.
pub(crate) fn check_limit(count: i64, max: i64, plural: &'static str) -> Result<(), LimitReached> {
    if count < max { Ok(()) } else { Err(LimitReached { max, plural }) }
}
