//! Identifiers of the objects of this service.

use chassis::{EventTarget, OrgId, ProjectGrant, ProjectId, Result};

chassis::id!(
    /// Identifies a server.
    ServerId,
    "server"
);
chassis::id!(
    /// Identifies an environment.
    EnvironmentId,
    "environment"
);
chassis::id!(
    /// Identifies a task.
    TaskId,
    "task"
);
chassis::id!(
    /// Identifies an add-on.
    AddonId,
    "addon"
);

chassis::id!(
    /// Identifies a Git connection.
    GitConnectionId,
    "Git connection"
);
chassis::id!(
    /// Identifies a DNS connection.
    DnsConnectionId,
    "DNS connection"
);
chassis::id!(
    /// Identifies a record that the suite publishes on a DNS server.
    DnsRecordId,
    "DNS record"
);
chassis::id!(
    /// Identifies a custom domain of an environment.
    DomainId,
    "domain"
);
chassis::id!(
    /// Identifies a storage connection.
    StorageConnectionId,
    "storage connection"
);
chassis::id!(
    /// Identifies a deploy key.
    DeployKeyId,
    "deploy key"
);

/// A project and its organization. Statements on the rows of a project are bound to both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProjectRef {
    pub org_id: OrgId,
    pub project_id: ProjectId,
}

impl From<&ProjectGrant> for ProjectRef {
    fn from(grant: &ProjectGrant) -> Self {
        Self { org_id: grant.org_id(), project_id: grant.project_id() }
    }
}

impl ProjectRef {
    /// Target of an event about the project itself.
    pub fn event_target(self, name: &str) -> EventTarget {
        EventTarget::object("project", self.project_id, name)
            .in_org(self.org_id)
            .in_project(self.project_id)
    }
}

/// Parses an id; empty text is `None`.
pub fn parse_optional_id<T: std::str::FromStr<Err = chassis::Error>>(
    text: &str,
) -> Result<Option<T>> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
}

/// Text of an id; `None` is empty.
pub(crate) fn optional_id_text(id: Option<impl Into<String>>) -> String {
    id.map(Into::into).unwrap_or_default()
}
