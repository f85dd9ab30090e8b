//! Names of roles in texts for people.

use api::identity::OrgRole;

/// Name of a role in a sentence.
pub(crate) fn role_name(role: OrgRole) -> &'static str {
    match role {
        OrgRole::Viewer => "Viewer",
        OrgRole::Developer => "Developer",
        OrgRole::Admin => "Admin",
        OrgRole::Owner => "Owner",
        // Written by a newer version, which has further roles.
        OrgRole::Unspecified => "member",
    }
}
