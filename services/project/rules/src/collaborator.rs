//! Collaborators: people and teams with a role on a project. Identity owns the grants; this service
//! forwards calls to it with the caller's credential (P-09).

use api::identity::{Member, OrgRole, ProjectRole};

/// Returns the member with an e-mail address; case is ignored.
pub fn find_by_email<'a>(members: &'a [Member], email: &str) -> Option<&'a Member> {
    members.iter().find(|it| it.email.trim().to_lowercase() == email.trim().to_lowercase())
}

/// Role in the organization for a person who is invited to a project: the least one that the project role
/// needs (IN-12).
pub fn org_role_for(role: ProjectRole) -> OrgRole {
    match role {
        ProjectRole::Viewer | ProjectRole::Unspecified => OrgRole::Viewer,
        ProjectRole::Developer | ProjectRole::Admin => OrgRole::Developer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_email_address_matches_whole_and_in_any_case() {
        let member = |email: &str| Member { email: email.to_owned(), ..Member::default() };
        let members = [member("bob@example.com.org"), member("Bob@Example.com")];
        assert_eq!(find_by_email(&members, " bob@example.COM").unwrap().email, "Bob@Example.com");
        assert!(find_by_email(&members, "ob@example.com").is_none());
    }

    #[test]
    fn an_invitation_to_a_project_makes_nobody_an_admin_of_the_organization() {
        assert_eq!(org_role_for(ProjectRole::Admin), OrgRole::Developer);
        assert_eq!(org_role_for(ProjectRole::Viewer), OrgRole::Viewer);
    }
}
