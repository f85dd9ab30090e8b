//! The whole permission matrix (domain §6), on one screen. Nothing else in the suite knows roles.

/// What a member may do in the organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, sqlx::Type)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum ProjectRole {
    /// Reads.
    Viewer,
    /// Deploys.
    Developer,
    /// Everything.
    Admin,
}

use OrgRole as O;
use ProjectRole as P;

/// Permissions in an organization, and the lowest role that has each.
pub const ORG: &[(&str, OrgRole)] = &[
    ("org.view", O::Viewer),
    ("org.members.list", O::Viewer),
    ("org.projects.list", O::Viewer),
    ("org.projects.create", O::Developer),
    ("org.update", O::Admin),
    ("org.invitations.manage", O::Admin),
    ("org.members.update_role", O::Admin),
    ("org.members.remove", O::Admin),
    ("org.projects.access", O::Admin),
    ("org.audit.list", O::Admin),
    ("org.billing.view", O::Owner),
    ("org.billing.manage", O::Owner),
];

/// Permissions on a project: the lowest project role that has each, and whether an organization's Admin
/// has it without any role on the project (ID-38).
pub const PROJECT: &[(&str, ProjectRole, bool)] = &[
    ("project.metadata.view", P::Viewer, true),
    ("project.access.list", P::Viewer, true),
    ("project.access.manage", P::Admin, true),
    ("project.view", P::Viewer, false),
    ("project.logs.view", P::Viewer, false),
    ("project.environments.create", P::Developer, false),
    ("project.environments.deploy", P::Developer, false),
];

/// What is known about a person at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// Their role in the organization, if they are a member.
    pub org_role: Option<OrgRole>,
    /// Whether the project that is asked about exists in the organization.
    pub project_exists: bool,
    /// The highest role that was granted to them on it.
    pub granted: Option<ProjectRole>,
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether they may.
    pub allowed: bool,
    /// Whether they may know that the object exists.
    pub visible: bool,
}

const HIDDEN: Verdict = Verdict { allowed: false, visible: false };

impl Facts {
    /// The role on the project: the Owner always has ADMIN (ID-8), a member what was granted, nobody else
    /// anything (ID-37). The role in the organization neither caps nor raises it (1.6, step 6).
    pub fn project_role(&self) -> Option<ProjectRole> {
        match self.org_role? {
            _ if !self.project_exists => None,
            O::Owner => Some(P::Admin),
            _ => self.granted,
        }
    }

    /// Whether a permission is held. `None` for a permission that does not exist.
    pub fn verdict(&self, permission: &str) -> Option<Verdict> {
        if let Some((_, least)) = ORG.iter().find(|it| it.0 == permission) {
            let visible = self.org_role.is_some();
            return Some(Verdict { allowed: self.org_role >= Some(*least), visible });
        }
        let (_, least, admin_too) = PROJECT.iter().find(|it| it.0 == permission)?;
        let role = self.project_role();
        let as_admin = *admin_too && self.project_exists && self.org_role >= Some(O::Admin);
        Some(match (role, as_admin) {
            (None, false) => HIDDEN,
            _ => Verdict { allowed: as_admin || role >= Some(*least), visible: true },
        })
    }
}

/// Whether a permission exists.
pub fn exists(permission: &str) -> bool {
    Facts::default().verdict(permission).is_some()
}

/// Who may invite, and so whose invitations live.
pub fn may_invite(role: OrgRole) -> bool {
    Facts { org_role: Some(role), ..Facts::default() }
        .verdict("org.invitations.manage")
        .is_some_and(|it| it.allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_of_the_contract_names_a_permission_that_exists() {
        let rules = chassis::rule::Rules::load(api::DESCRIPTORS).unwrap();
        for rule in rules.iter() {
            if let chassis::rule::Audience::Permission(code) = &rule.audience {
                assert!(exists(code), "{}: {code}", rule.method);
            }
        }
    }

    /// ID-37: the whole grid of membership, role and grant.
    #[test]
    fn the_project_role_follows_from_membership_ownership_and_grants_alone() {
        let roles = [None, Some(O::Viewer), Some(O::Developer), Some(O::Admin), Some(O::Owner)];
        let grants = [None, Some(P::Viewer), Some(P::Developer), Some(P::Admin)];
        for org_role in roles {
            for granted in grants {
                let facts = Facts { org_role, project_exists: true, granted };
                let expected = match org_role {
                    None => None,
                    Some(O::Owner) => Some(P::Admin),
                    Some(_) => granted,
                };
                assert_eq!(facts.project_role(), expected, "{facts:?}");
            }
        }
    }

    /// ID-38: an Admin without a grant sees that a project is there, and manages who enters, no more.
    #[test]
    fn an_admin_manages_access_but_does_not_enter() {
        let facts = Facts { org_role: Some(O::Admin), project_exists: true, granted: None };
        let verdict = |it| facts.verdict(it).unwrap();
        assert!(verdict("project.metadata.view").allowed);
        assert!(verdict("project.access.manage").allowed);
        assert_eq!(verdict("project.view"), HIDDEN);
        assert_eq!(verdict("project.environments.deploy"), HIDDEN);
    }
}
