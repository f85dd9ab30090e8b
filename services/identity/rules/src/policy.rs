//! The permission matrix: the lowest role for each permission, and the API keys that may have it. No other
//! code compares roles with permissions.

mod wire;

use crate::types::StoredText;
use KeyPolicy as K;
use OrgRole as O;
use ProjectRole as P;

/// The role of a member in an organization, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OrgRole {
    /// Reads.
    Viewer,
    /// Creates projects.
    Developer,
    /// Manages members and infrastructure.
    Admin,
    /// Has every permission. Each organization has exactly one.
    Owner,
}

/// The role of a member or team on a project, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProjectRole {
    /// Reads.
    Viewer,
    /// Deploys.
    Developer,
    /// Has every permission on the project.
    Admin,
}

/// The API keys that may have a permission. A key also needs an owner who has the permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyPolicy {
    /// No key: the caller must have a session.
    None,
    /// Keys of the whole organization.
    Organization,
    /// Keys of the organization, and keys of the project.
    Project,
}

impl OrgRole {
    /// Returns the name as messages and the contract write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "VIEWER",
            Self::Developer => "DEVELOPER",
            Self::Admin => "ADMIN",
            Self::Owner => "OWNER",
        }
    }
}

impl ProjectRole {
    /// Returns the name as messages and the contract write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "VIEWER",
            Self::Developer => "DEVELOPER",
            Self::Admin => "ADMIN",
        }
    }
}

impl StoredText for OrgRole {
    const TEXTS: &'static [(Self, &'static str)] = &[
        (Self::Viewer, "viewer"),
        (Self::Developer, "developer"),
        (Self::Admin, "admin"),
        (Self::Owner, "owner"),
    ];
}

impl StoredText for ProjectRole {
    const TEXTS: &'static [(Self, &'static str)] =
        &[(Self::Viewer, "viewer"), (Self::Developer, "developer"), (Self::Admin, "admin")];
}

/// A permission in an organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrgPermission {
    /// Its code, for example `org.view`.
    pub code: &'static str,
    /// The lowest role that has it.
    pub min_role: OrgRole,
    /// The API keys that may have it.
    pub keys: KeyPolicy,
}

/// A permission on a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProjectPermission {
    /// Its code, for example `project.view`.
    pub code: &'static str,
    /// The lowest role on the project that has it.
    pub min_role: ProjectRole,
    /// True if an Admin of the organization has it without a role on the project (ID-38).
    pub org_admin: bool,
    /// The API keys that may have it.
    pub keys: KeyPolicy,
}

const fn org(code: &'static str, min_role: OrgRole, keys: KeyPolicy) -> OrgPermission {
    OrgPermission { code, min_role, keys }
}

const fn project(code: &'static str, min_role: ProjectRole, keys: KeyPolicy) -> ProjectPermission {
    ProjectPermission { code, min_role, org_admin: false, keys }
}

/// A permission that an Admin of the organization has even without a role on the project.
const fn project_or_org_admin(
    code: &'static str,
    min_role: ProjectRole,
    keys: KeyPolicy,
) -> ProjectPermission {
    ProjectPermission { code, min_role, org_admin: true, keys }
}

/// Permissions in an organization.
pub const ORG: &[OrgPermission] = &[
    org("org.view", O::Viewer, K::Project),
    org("org.update", O::Admin, K::None),
    org("org.delete", O::Owner, K::None),
    org("org.restore", O::Owner, K::None),
    org("org.ownership.transfer", O::Owner, K::None),
    org("org.billing.view", O::Owner, K::None),
    org("org.billing.manage", O::Owner, K::None),
    org("org.members.list", O::Viewer, K::None),
    org("org.members.update_role", O::Admin, K::None),
    org("org.members.remove", O::Admin, K::None),
    org("org.members.leave", O::Viewer, K::None),
    org("org.invitations.manage", O::Admin, K::None),
    org("org.teams.list", O::Viewer, K::None),
    org("org.teams.manage", O::Admin, K::None),
    org("org.access.view", O::Admin, K::None),
    org("org.projects.list", O::Viewer, K::Project),
    org("org.projects.create", O::Developer, K::Organization),
    org("org.servers.list", O::Viewer, K::Project),
    org("org.servers.manage", O::Admin, K::None),
    org("org.connections.list", O::Viewer, K::Project),
    org("org.connections.manage", O::Admin, K::None),
    org("org.api_keys.create", O::Admin, K::None),
    org("org.api_keys.list", O::Admin, K::Organization),
    org("org.api_keys.revoke", O::Admin, K::Organization),
    org("org.webhooks.manage", O::Admin, K::Organization),
    org("org.audit.list", O::Admin, K::None),
    org("org.audit.export", O::Admin, K::None),
    org("org.audit.hold", O::Owner, K::None),
];

/// Permissions on a project.
pub const PROJECT: &[ProjectPermission] = &[
    project_or_org_admin("project.metadata.view", P::Viewer, K::Project),
    project("project.view", P::Viewer, K::Project),
    project("project.monitoring.view", P::Viewer, K::Project),
    project("project.logs.view", P::Viewer, K::Project),
    project("project.addons.view", P::Viewer, K::Project),
    project_or_org_admin("project.access.list", P::Viewer, K::None),
    project_or_org_admin("project.access.manage", P::Admin, K::None),
    project("project.update", P::Admin, K::Project),
    project("project.repository.update", P::Admin, K::Project),
    project("project.delete", P::Admin, K::Organization),
    project("project.environments.create", P::Developer, K::Project),
    project("project.environments.update", P::Admin, K::Project),
    project("project.environments.deploy", P::Developer, K::Project),
    project("project.production.deploy", P::Admin, K::Project),
    project("project.environments.operate", P::Developer, K::Project),
    project("project.environments.delete", P::Admin, K::Project),
    project("project.env_vars.list", P::Developer, K::Project),
    project("project.env_vars.write", P::Admin, K::Project),
    project("project.automation.edit", P::Admin, K::Project),
    project("project.addons.manage", P::Admin, K::Project),
    project_or_org_admin("project.webhooks.manage", P::Admin, K::Project),
    project("project.api_keys.manage", P::Admin, K::None),
    project_or_org_admin("project.audit.list", P::Admin, K::None),
];

/// Permissions that the Owner of a deleted organization keeps until its purge (ID-35, AU-22).
pub const OWNER_WHEN_DELETED: &[&str] = &["org.restore", "org.audit.list", "org.audit.export"];

/// Permissions for changes that are allowed while the subscription is blocked (PL-4).
pub const WHEN_BLOCKED: &[&str] =
    &["org.members.leave", "org.delete", "org.audit.export", "org.billing.manage"];

/// A permission: a row of [`ORG`] or [`PROJECT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// In the organization.
    Org(OrgPermission),
    /// On a project.
    Project(ProjectPermission),
}

impl Permission {
    /// Returns every permission.
    pub fn all() -> impl Iterator<Item = Self> {
        let org = ORG.iter().copied().map(Self::Org);
        org.chain(PROJECT.iter().copied().map(Self::Project))
    }

    /// Returns the permission with a code.
    pub fn parse(code: &str) -> Option<Self> {
        Self::all().find(|it| it.code() == code)
    }

    /// Returns its code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Org(permission) => permission.code,
            Self::Project(permission) => permission.code,
        }
    }

    /// Returns the API keys that may have it.
    pub fn keys(&self) -> KeyPolicy {
        match self {
            Self::Org(permission) => permission.keys,
            Self::Project(permission) => permission.keys,
        }
    }
}

/// Returns true if a role may invite members. Invitations of a member who loses such a role are revoked.
pub fn may_invite(role: OrgRole) -> bool {
    match Permission::parse("org.invitations.manage") {
        Some(Permission::Org(permission)) => role >= permission.min_role,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_of_the_contract_names_a_permission_that_exists() {
        let rules = chassis::rule::Rules::load(api::DESCRIPTORS).unwrap();
        for rule in rules.iter() {
            if let chassis::rule::Audience::Permission(code) = &rule.audience {
                assert!(Permission::parse(code).is_some(), "{}: {code}", rule.method);
            }
        }
    }

    #[test]
    fn a_code_names_one_permission() {
        let mut codes: Vec<_> = Permission::all().map(|it| it.code()).collect();
        codes.sort_unstable();
        let count = codes.len();
        codes.dedup();
        assert_eq!(codes.len(), count);
    }
}
