//! Effects of simulated changes of access: differences between two snapshots, in pages.

use std::{collections::BTreeSet, fmt, str::FromStr};

use api::identity as pb;
use chassis::{ProjectId, UserId};
use uuid::Uuid;

use crate::{
    policy::{OrgRole, Permission, ProjectRole},
    snapshot::{AccessQuery, Roles, Snapshot},
};

/// Grants and team memberships that one call compares at most before it ends its page early. A single scope
/// is always compared as a whole.
const COMPARED_MAX: usize = 200_000;

/// The organization (`None`), or one of its projects.
type Scope = Option<ProjectId>;

/// The scope at which a page starts, and the last member of that scope on the page before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    scope: Scope,
    after: Option<UserId>,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scope = self.scope.map(String::from).unwrap_or_default();
        let after = self.after.map(String::from).unwrap_or_default();
        write!(f, "{scope}/{after}")
    }
}

impl FromStr for Cursor {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        let (scope, after) = text.split_once('/').unwrap_or_default();
        let parse_id = |text: &str| match text {
            "" => Ok(None),
            text => Uuid::try_parse(text).map(Some),
        };
        Ok(Self { scope: parse_id(scope)?.map(ProjectId), after: parse_id(after)?.map(UserId) })
    }
}

/// A page of differences.
#[derive(Debug, Default)]
pub struct Differences {
    pub differences: Vec<pb::AccessDifference>,
    /// The start of the next page; `None` on the last page.
    pub next: Option<Cursor>,
}

/// Returns a page of the differences, ordered by scope and member.
pub fn find_differences(
    before: &Snapshot,
    after: &Snapshot,
    from: Cursor,
    size: usize,
) -> Differences {
    let mut scopes: Vec<Scope> = before.projects.keys().copied().map(Some).collect();
    scopes.push(None);
    scopes.retain(|it| *it >= from.scope);
    scopes.sort_unstable();
    let same_members = before.members == after.members && before.teams == after.teams;
    let same_grants =
        |scope: Scope| scope.is_none_or(|it| before.projects.get(&it) == after.projects.get(&it));
    let is_unchanged = |scope: Scope| same_members && same_grants(scope);
    let mut page = Differences::default();
    let mut compared = 0;
    for scope in scopes.into_iter().filter(|it| !is_unchanged(*it)) {
        if compared > COMPARED_MAX {
            page.next = Some(Cursor { scope, after: None });
            return page;
        }
        compared += before.count_role_inputs(scope) + after.count_role_inputs(scope);
        let start = from.after.filter(|_| scope == from.scope);
        let mut last = start;
        let changes = role_changes(before, after, scope).into_iter();
        for change in changes.filter(|it| Some(it.user_id) > start) {
            if page.differences.len() == size {
                page.next = Some(Cursor { scope, after: last });
                return page;
            }
            last = Some(change.user_id);
            page.differences.push(change.into_message(scope));
        }
    }
    page
}

/// A member whose role or permissions in a scope differ.
struct RoleChange {
    user_id: UserId,
    before: Roles,
    after: Roles,
    gained: Vec<String>,
    lost: Vec<String>,
}

/// Returns the members whose role or permissions in a scope differ, ordered by id.
fn role_changes(before: &Snapshot, after: &Snapshot, scope: Scope) -> Vec<RoleChange> {
    let project_roles = |snapshot: &Snapshot| {
        scope.map(|project_id| snapshot.project_roles(project_id)).unwrap_or_default()
    };
    let project_roles_before = project_roles(before);
    let project_roles_after = project_roles(after);
    let members = before.members.keys().chain(after.members.keys());
    let members: BTreeSet<UserId> = members.copied().collect();
    let compare = |user_id: UserId| {
        let roles_before = Roles {
            org: before.org_role(user_id),
            project: project_roles_before.get(&user_id).copied(),
        };
        let roles_after = Roles {
            org: after.org_role(user_id),
            project: project_roles_after.get(&user_id).copied(),
        };
        if roles_before == roles_after {
            return None;
        }
        let codes_before = permission_codes(before, roles_before, scope);
        let codes_after = permission_codes(after, roles_after, scope);
        let change = RoleChange {
            user_id,
            before: roles_before,
            after: roles_after,
            gained: missing_from(&codes_before, &codes_after),
            lost: missing_from(&codes_after, &codes_before),
        };
        let differs =
            codes_before != codes_after || change.before.name(scope) != change.after.name(scope);
        differs.then_some(change)
    };
    members.into_iter().filter_map(compare).collect()
}

/// Returns the `codes` that are not in `others`.
fn missing_from(others: &[&str], codes: &[&str]) -> Vec<String> {
    codes.iter().filter(|it| !others.contains(it)).map(|it| (*it).to_owned()).collect()
}

/// Returns every permission that these roles include in a scope.
fn permission_codes(snapshot: &Snapshot, roles: Roles, scope: Scope) -> Vec<&'static str> {
    let in_scope = |it: &Permission| matches!(it, Permission::Org(_)) == scope.is_none();
    let is_allowed = |it: &Permission| {
        let query = AccessQuery { permission: *it, project_id: scope, write: false };
        snapshot.allows(roles, &query)
    };
    Permission::all().filter(in_scope).filter(is_allowed).map(|it| it.code()).collect()
}

impl Roles {
    /// Returns the name of the role in a scope; empty if there is none.
    fn name(self, scope: Scope) -> &'static str {
        let name = match scope {
            None => self.org.map(OrgRole::as_str),
            Some(_) => self.project.map(ProjectRole::as_str),
        };
        name.unwrap_or_default()
    }
}

impl RoleChange {
    fn into_message(self, scope: Scope) -> pb::AccessDifference {
        pb::AccessDifference {
            user_id: self.user_id.into(),
            project_id: scope.map(String::from).unwrap_or_default(),
            role_before: self.before.name(scope).to_owned(),
            role_after: self.after.name(scope).to_owned(),
            gained: self.gained,
            lost: self.lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use chassis::{OrgId, TeamId};

    use super::*;
    use crate::{
        snapshot::{Change, Status},
        types::Principal,
    };

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    /// Returns an organization of 30 members with a grant on each of 20 projects, and the same after 10 of
    /// them have been removed.
    fn before_and_after() -> (Snapshot, Snapshot) {
        let mut before = Snapshot::new(OrgId(id(1)), 1, Status::Active);
        for project in 0..20 {
            before.apply(Change::AddProject(ProjectId(id(1_000 + project))));
        }
        for user in 0..30 {
            let user = UserId(id(100 + user));
            before.apply(Change::SetRole(user, OrgRole::Viewer));
            for project in before.projects.keys().copied().collect::<Vec<_>>() {
                let grant = Change::Grant(project, Principal::User(user), ProjectRole::Viewer);
                before.apply(grant);
            }
        }
        let mut after = before.clone();
        for user in 0..10 {
            after.apply(Change::RemoveMember(UserId(id(100 + user * 3))));
        }
        (before, after)
    }

    #[test]
    fn pages_of_any_size_have_every_difference_once_and_in_order() {
        let (before, after) = before_and_after();
        let whole = find_differences(&before, &after, Cursor::default(), 1_000);
        assert_eq!(whole.differences.len(), 10 * 21);
        assert_eq!(whole.next, None);
        for size in [1, 7, 10, 209] {
            let mut all = vec![];
            let mut cursor = Cursor::default();
            loop {
                let page = find_differences(&before, &after, cursor, size);
                assert!(page.differences.len() <= size);
                all.extend(page.differences);
                let Some(next) = page.next else { break };
                cursor = next.to_string().parse().unwrap();
                assert_eq!(cursor, next);
            }
            assert_eq!(all, whole.differences, "pages of {size}");
        }
    }

    #[test]
    fn a_page_ends_early_rather_than_compare_a_large_organization_at_once() {
        let mut before = Snapshot::new(OrgId(id(1)), 1, Status::Active);
        let team = TeamId(id(2));
        before.apply(Change::AddTeam(team));
        for user in 0..2_000 {
            before.apply(Change::SetRole(UserId(id(100_000 + user)), OrgRole::Viewer));
            before.apply(Change::AddToTeam(team, UserId(id(100_000 + user))));
        }
        for project in 0..500 {
            let project = ProjectId(id(1_000 + project));
            before.apply(Change::AddProject(project));
            before.apply(Change::Grant(project, Principal::Team(team), ProjectRole::Viewer));
        }
        let mut after = before.clone();
        after.apply(Change::RemoveMember(UserId(id(100_000))));
        let page = find_differences(&before, &after, Cursor::default(), 1_000);
        // About 4,000 for each project: 2,000 memberships before and after.
        let expected = COMPARED_MAX / 4_000;
        assert!(
            page.differences.len().abs_diff(expected) <= 1,
            "{} {:?}",
            page.differences.len(),
            page.next
        );
        assert!(page.next.is_some());
    }
}
