//! The whole permission matrix (domain §6), on one screen. Nothing else in the suite knows roles.

/// What a member may do in the organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum OrgRole {
    /// Reads.
    Viewer,
    /// Creates projects.
    Developer,
    /// Manages people and infrastructure.
    Admin,
    /// Everything. Exactly one member.
    Owner,
}

/// What a member may do inside a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum ProjectRole {
    /// Reads.
    Viewer,
    /// Deploys.
    Developer,
    /// Everything.
    Admin,
}

/// Which API keys may have a permission at most (6.3); the rights of the key's owner bound it further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyReach {
    /// None: only a person who signed in.
    Nobody,
    /// Keys of the whole organization.
    Org,
    /// Keys of the organization, and keys of the project.
    Any,
}

impl OrgRole {
    /// As people write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Viewer => "VIEWER",
            Self::Developer => "DEVELOPER",
            Self::Admin => "ADMIN",
            Self::Owner => "OWNER",
        }
    }
}

impl ProjectRole {
    /// As people write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Viewer => "VIEWER",
            Self::Developer => "DEVELOPER",
            Self::Admin => "ADMIN",
        }
    }
}

use KeyReach as K;
use OrgRole as O;
use ProjectRole as P;

/// Permissions in an organization: the lowest role that has each, and which keys may (6.1).
pub const ORG: &[(&str, OrgRole, KeyReach)] = &[
    ("org.view", O::Viewer, K::Any),
    ("org.update", O::Admin, K::Nobody),
    ("org.delete", O::Owner, K::Nobody),
    ("org.restore", O::Owner, K::Nobody),
    ("org.ownership.transfer", O::Owner, K::Nobody),
    ("org.billing.view", O::Owner, K::Nobody),
    ("org.billing.manage", O::Owner, K::Nobody),
    ("org.members.list", O::Viewer, K::Nobody),
    ("org.members.update_role", O::Admin, K::Nobody),
    ("org.members.remove", O::Admin, K::Nobody),
    ("org.members.leave", O::Viewer, K::Nobody),
    ("org.invitations.manage", O::Admin, K::Nobody),
    ("org.teams.list", O::Viewer, K::Nobody),
    ("org.teams.manage", O::Admin, K::Nobody),
    ("org.roles.list", O::Viewer, K::Any),
    ("org.access.view", O::Admin, K::Nobody),
    ("org.projects.list", O::Viewer, K::Any),
    ("org.projects.create", O::Developer, K::Org),
    ("org.projects.access", O::Admin, K::Nobody),
    ("org.servers.list", O::Viewer, K::Any),
    ("org.servers.manage", O::Admin, K::Nobody),
    ("org.integrations.list", O::Viewer, K::Any),
    ("org.integrations.manage", O::Admin, K::Nobody),
    ("org.backups.policy", O::Admin, K::Nobody),
    ("org.backups.restore", O::Admin, K::Nobody),
    ("org.api_keys.create", O::Admin, K::Nobody),
    ("org.api_keys.list", O::Admin, K::Org),
    ("org.api_keys.revoke", O::Admin, K::Org),
    ("org.webhooks.manage", O::Admin, K::Org),
    ("org.audit.list", O::Admin, K::Nobody),
    ("org.audit.export", O::Admin, K::Nobody),
    ("org.audit.hold", O::Owner, K::Nobody),
];

/// Permissions on a project: the lowest project role that has each, whether an organization's Admin has it
/// without any role on the project (ID-38), and which keys may (6.2).
pub const PROJECT: &[(&str, ProjectRole, bool, KeyReach)] = &[
    ("project.metadata.view", P::Viewer, true, K::Any),
    ("project.view", P::Viewer, false, K::Any),
    ("project.monitoring.view", P::Viewer, false, K::Any),
    ("project.logs.view", P::Viewer, false, K::Any),
    ("project.services.view", P::Viewer, false, K::Any),
    ("project.backups.list", P::Viewer, false, K::Any),
    ("project.access.list", P::Viewer, true, K::Nobody),
    ("project.access.manage", P::Admin, true, K::Nobody),
    ("project.update", P::Admin, false, K::Any),
    ("project.repository.update", P::Admin, false, K::Any),
    ("project.delete", P::Admin, false, K::Org),
    ("project.environments.create", P::Developer, false, K::Any),
    ("project.environments.update", P::Admin, false, K::Any),
    ("project.environments.deploy", P::Developer, false, K::Any),
    ("project.production.deploy", P::Admin, false, K::Any),
    ("project.environments.operate", P::Developer, false, K::Any),
    ("project.environments.reinit", P::Admin, false, K::Any),
    ("project.environments.delete", P::Admin, false, K::Any),
    ("project.env_vars.list", P::Developer, false, K::Any),
    ("project.env_vars.write", P::Admin, false, K::Any),
    ("project.backups.create", P::Developer, false, K::Any),
    ("project.backups.restore", P::Admin, false, K::Any),
    ("project.backups.download", P::Admin, false, K::Any),
    ("project.backups.delete", P::Admin, false, K::Any),
    ("project.backups.policy", P::Admin, false, K::Any),
    ("project.domains.manage", P::Admin, false, K::Any),
    ("project.automation.run", P::Developer, false, K::Any),
    ("project.automation.edit", P::Admin, false, K::Any),
    ("project.services.manage", P::Admin, false, K::Any),
    ("project.webhooks.manage", P::Admin, true, K::Any),
    ("project.api_keys.manage", P::Admin, false, K::Nobody),
    ("project.audit.list", P::Admin, true, K::Nobody),
];

/// What may be asked for: a row of one of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// In the organization.
    Org(&'static str, OrgRole, KeyReach),
    /// On a project; and whether an Admin of the organization has it anyway.
    Project(&'static str, ProjectRole, bool, KeyReach),
}

impl Permission {
    /// Every permission there is.
    pub fn all() -> impl Iterator<Item = Self> {
        let org = ORG.iter().map(|it| Self::Org(it.0, it.1, it.2));
        org.chain(PROJECT.iter().map(|it| Self::Project(it.0, it.1, it.2, it.3)))
    }

    /// The permission with a code.
    pub fn parse(code: &str) -> Option<Self> {
        Self::all().find(|it| it.code() == code)
    }

    /// Its code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Org(code, ..) | Self::Project(code, ..) => code,
        }
    }

    /// Which keys may have it.
    pub fn keys(&self) -> KeyReach {
        match self {
            Self::Org(.., keys) | Self::Project(.., keys) => *keys,
        }
    }
}

/// Who may invite, and so whose invitations live.
pub fn may_invite(role: OrgRole) -> bool {
    matches!(Permission::parse("org.invitations.manage"), Some(Permission::Org(_, least, _)) if role >= least)
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
