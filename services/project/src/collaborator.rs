//! Collaborators: the project's view of who works on it. Identity owns the grants; everything here is done
//! with the caller's own credential (P-09).

pub(crate) mod rpc;

use api::identity::{Member, OrgRole, ProjectRole};

/// The member with an address, if one of these is theirs.
pub(crate) fn with_address<'a>(members: &'a [Member], email: &str) -> Option<&'a Member> {
    members.iter().find(|it| it.email.trim().to_lowercase() == email.trim().to_lowercase())
}

/// The role in the organization that comes with an invitation to a project: not more than the project needs
/// (IN-12).
pub(crate) fn org_role(role: ProjectRole) -> OrgRole {
    match role {
        ProjectRole::Viewer | ProjectRole::Unspecified => OrgRole::Viewer,
        ProjectRole::Developer | ProjectRole::Admin => OrgRole::Developer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_the_same_in_any_case_and_no_part_of_another() {
        let member = |email: &str| Member { email: email.to_owned(), ..Member::default() };
        let members = [member("bob@example.com.org"), member("Bob@Example.com")];
        assert_eq!(with_address(&members, " bob@example.COM").unwrap().email, "Bob@Example.com");
        assert!(with_address(&members, "ob@example.com").is_none());
    }

    #[test]
    fn whoever_is_invited_to_a_project_is_no_admin_of_the_organization() {
        assert_eq!(org_role(ProjectRole::Admin), OrgRole::Developer);
        assert_eq!(org_role(ProjectRole::Viewer), OrgRole::Viewer);
    }
}
