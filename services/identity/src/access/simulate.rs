//! Effects of changes of access that are only imagined: differences between two snapshots, page by page.

use std::{collections::BTreeSet, fmt, str::FromStr};

use api::identity as pb;
use chassis::{ProjectId, UserId};
use uuid::Uuid;

use crate::{
    policy::{OrgRole, Permission, ProjectRole},
    snapshot::{Roles, Snapshot, Wish},
};

/// Grants and team memberships that one call compares before it ends its page early. A single place is always
/// compared as a whole.
const COMPARED_MAX: usize = 200_000;

/// The organization (`None`), or one of its projects.
type Place = Option<ProjectId>;

/// The place at which a page starts, and the last member of the page before there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    place: Place,
    after: Option<UserId>,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.place.map(String::from).unwrap_or_default();
        write!(f, "{place}/{}", self.after.map(String::from).unwrap_or_default())
    }
}

impl FromStr for Cursor {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        let (place, after) = text.split_once('/').unwrap_or_default();
        let id = |text: &str| match text {
            "" => Ok(None),
            text => Uuid::try_parse(text).map(Some),
        };
        Ok(Self { place: id(place)?.map(ProjectId), after: id(after)?.map(UserId) })
    }
}

/// A page of differences.
#[derive(Debug, Default)]
pub(crate) struct Differences {
    pub(crate) found: Vec<pb::AccessDifference>,
    /// Where the next page starts; none after the last one.
    pub(crate) next: Option<Cursor>,
}

/// What would differ, in the order of places and members.
pub(crate) fn differences(
    before: &Snapshot,
    after: &Snapshot,
    from: Cursor,
    size: usize,
) -> Differences {
    let mut places: Vec<Place> = before.projects.keys().copied().map(Some).collect();
    places.push(None);
    places.retain(|it| *it >= from.place);
    places.sort_unstable();
    let same_people = before.members == after.members && before.teams == after.teams;
    let same_grants =
        |place: Place| place.is_none_or(|it| before.projects.get(&it) == after.projects.get(&it));
    let mut page = Differences::default();
    let mut compared = 0;
    for place in places.into_iter().filter(|it| !(same_people && same_grants(*it))) {
        if compared > COMPARED_MAX {
            page.next = Some(Cursor { place, after: None });
            return page;
        }
        compared += before.extent(place) + after.extent(place);
        let mut last = from.after.filter(|_| place == from.place);
        let start = last;
        for it in changed(before, after, place).into_iter().filter(|it| Some(it.user_id) > start) {
            if page.found.len() == size {
                page.next = Some(Cursor { place, after: last });
                return page;
            }
            last = Some(it.user_id);
            page.found.push(it.message(place));
        }
    }
    page
}

/// A member whose roles in a place differ.
struct Changed {
    user_id: UserId,
    was: Roles,
    is: Roles,
    gained: Vec<String>,
    lost: Vec<String>,
}

/// The members whose roles in a place differ, by id.
fn changed(before: &Snapshot, after: &Snapshot, place: Place) -> Vec<Changed> {
    let roles = |snapshot: &Snapshot| place.map(|it| snapshot.project_roles(it));
    let (was, is) = (roles(before).unwrap_or_default(), roles(after).unwrap_or_default());
    let users: BTreeSet<UserId> =
        before.members.keys().chain(after.members.keys()).copied().collect();
    let change = |user_id: UserId| {
        let was = Roles { org: before.org_role(user_id), project: was.get(&user_id).copied() };
        let is = Roles { org: after.org_role(user_id), project: is.get(&user_id).copied() };
        if was == is {
            return None;
        }
        let (had, has) = (codes(before, was, place), codes(after, is, place));
        let only = |these: &[&str], those: &[&str]| -> Vec<String> {
            these.iter().filter(|it| !those.contains(it)).map(|it| (*it).to_owned()).collect()
        };
        let (gained, lost) = (only(&has, &had), only(&had, &has));
        let it = Changed { user_id, was, is, gained, lost };
        (had != has || it.was.word(place) != it.is.word(place)).then_some(it)
    };
    users.into_iter().filter_map(change).collect()
}

/// Every permission that these roles give in a place.
fn codes(snapshot: &Snapshot, roles: Roles, place: Place) -> Vec<&'static str> {
    let of_place = |it: &Permission| matches!(it, Permission::Org(..)) == place.is_none();
    let held = |it: &Permission| {
        snapshot.allows(roles, &Wish { permission: *it, project_id: place, write: false })
    };
    Permission::all().filter(of_place).filter(held).map(|it| it.code()).collect()
}

impl Roles {
    /// The role that counts in a place; empty if there is none.
    fn word(self, place: Place) -> &'static str {
        let word = match place {
            None => self.org.map(OrgRole::word),
            Some(_) => self.project.map(ProjectRole::word),
        };
        word.unwrap_or_default()
    }
}

impl Changed {
    fn message(self, place: Place) -> pb::AccessDifference {
        pb::AccessDifference {
            user_id: self.user_id.into(),
            project_id: place.map(String::from).unwrap_or_default(),
            role_before: self.was.word(place).to_owned(),
            role_after: self.is.word(place).to_owned(),
            gained: self.gained,
            lost: self.lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use chassis::OrgId;

    use super::*;
    use crate::snapshot::{Change, Principal, Standing};

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    /// 30 members with a grant on each of 20 projects, of whom 10 leave.
    fn before_and_after() -> (Snapshot, Snapshot) {
        let mut before = Snapshot::new(OrgId(id(1)), 1, Standing::Active);
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
        let whole = differences(&before, &after, Cursor::default(), 1_000);
        assert_eq!((whole.found.len(), whole.next), (10 * 21, None));
        for size in [1, 7, 10, 209] {
            let (mut all, mut cursor) = (vec![], Cursor::default());
            loop {
                let page = differences(&before, &after, cursor, size);
                assert!(page.found.len() <= size);
                all.extend(page.found);
                let Some(next) = page.next else { break };
                cursor = next.to_string().parse().unwrap();
                assert_eq!(cursor, next);
            }
            assert_eq!(all, whole.found, "pages of {size}");
        }
    }

    #[test]
    fn a_page_ends_early_rather_than_compare_a_large_organization_at_once() {
        let mut before = Snapshot::new(OrgId(id(1)), 1, Standing::Active);
        let team = crate::team::TeamId(id(2));
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
        let page = differences(&before, &after, Cursor::default(), 1_000);
        // About 4,000 for each place.
        let expected = COMPARED_MAX / 4_000;
        assert!(page.found.len().abs_diff(expected) <= 1, "{} {:?}", page.found.len(), page.next);
        assert!(page.next.is_some());
    }
}
