//! Scope of webhooks, mail rules and alerts: an organization, or one of its projects.

use chassis::{EventTarget, OrgId, ProjectId, ScopeGrant};

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
