//! Updates of snapshots, compared with snapshots that are built from all facts, over random histories.

use chassis::OrgId;

use super::*;
use crate::snapshot::Status;

/// Number of random histories.
const HISTORIES: u64 = 2_000;

/// Versions in each history.
const VERSIONS: i64 = 30;

/// A row of the table `access_fact`.
struct Row {
    key: FactKey,
    role: Option<&'static str>,
    from_version: i64,
    to_version: Option<i64>,
}

/// The table, kept like the trigger `remember_access` keeps it.
#[derive(Default)]
struct Table(Vec<Row>);

impl Table {
    fn current(&self) -> impl Iterator<Item = &Row> {
        self.0.iter().filter(|it| it.to_version.is_none())
    }

    fn contains(&self, key: FactKey) -> bool {
        self.current().any(|it| it.key == key)
    }

    fn end(&mut self, key: FactKey, version: i64) {
        self.0
            .retain(|it| !(it.key == key && it.to_version.is_none() && it.from_version == version));
        for row in self.0.iter_mut().filter(|it| it.key == key && it.to_version.is_none()) {
            row.to_version = Some(version);
        }
    }

    fn set(&mut self, key: FactKey, role: Option<&'static str>, version: i64) {
        self.end(key, version);
        self.0.push(Row { key, role, from_version: version, to_version: None });
    }

    /// Ends a fact and the relations of its subject or object, as foreign keys require.
    fn remove(&mut self, key: FactKey, version: i64) {
        let is_dependent = |it: &FactKey| {
            it.kind.is_relation()
                && match key.kind {
                    FactKind::Member | FactKind::Team => {
                        it.subject_id == key.subject_id || it.object_id == key.subject_id
                    }
                    FactKind::Project => it.object_id == key.subject_id,
                    _ => false,
                }
        };
        let dependents: Vec<_> = self.current().map(|it| it.key).filter(is_dependent).collect();
        for key in dependents.into_iter().chain([key]) {
            self.end(key, version);
        }
    }

    fn row(it: &Row) -> FactRow {
        FactRow {
            kind: it.key.kind.as_text().to_owned(),
            subject_id: it.key.subject_id,
            object_id: it.key.object_id,
            role: it.role.map(str::to_owned),
        }
    }

    /// Builds the snapshot of the newest version from all current facts.
    fn load(&self, version: i64) -> Snapshot {
        let rows: Vec<_> = self.current().map(Self::row).collect();
        build(Snapshot::new(OrgId(Uuid::nil()), version, Status::Active), &rows)
    }

    /// Returns the changes since a version, as the statement of `access::store::update` does.
    fn changes_since(&self, version: i64) -> Vec<FactChange> {
        let begun = self.0.iter().filter(|it| it.from_version >= version);
        let begun =
            begun.map(|it| FactChange { row: Self::row(it), is_current: it.to_version.is_none() });
        let ended = self.0.iter().filter(|it| it.to_version.is_some_and(|it| it >= version));
        let ended = ended.map(|it| FactChange { row: Self::row(it), is_current: false });
        begun.chain(ended).collect()
    }
}

/// A pseudo-random generator (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// Makes one change of the table.
    fn change(&mut self, table: &mut Table, version: i64) {
        let mut id = |kind: u128| Uuid::from_u128((kind << 64) | u128::from(self.below(3)));
        let (user, team, project) = (id(1), id(2), id(3));
        let org_role = ["viewer", "developer", "admin"][usize::try_from(self.below(3)).unwrap()];
        let role = ["viewer", "developer", "admin"][usize::try_from(self.below(3)).unwrap()];
        let fact = |kind, subject_id, object_id| FactKey { kind, subject_id, object_id };
        let member = fact(FactKind::Member, user, user);
        let of_team = fact(FactKind::Team, team, team);
        let of_project = fact(FactKind::Project, project, project);
        match self.below(9) {
            0 | 1 => table.set(member, Some(org_role), version),
            2 => table.set(of_team, None, version),
            3 => table.set(of_project, None, version),
            4 if table.contains(member) && table.contains(of_team) => {
                table.set(fact(FactKind::TeamMember, user, team), None, version);
            }
            5 if table.contains(member) && table.contains(of_project) => {
                table.set(fact(FactKind::UserGrant, user, project), Some(role), version);
            }
            6 if table.contains(of_team) && table.contains(of_project) => {
                table.set(fact(FactKind::TeamGrant, team, project), Some(role), version);
            }
            7 => {
                let key = [member, of_team, of_project][usize::try_from(self.below(3)).unwrap()];
                table.remove(key, version);
            }
            _ => {
                let current: Vec<_> = table.current().map(|it| it.key).collect();
                let relations: Vec<_> =
                    current.into_iter().filter(|it| it.kind.is_relation()).collect();
                if let Some(count) = u64::try_from(relations.len()).ok().filter(|it| *it > 0) {
                    let index = usize::try_from(self.below(count)).unwrap();
                    table.remove(relations[index], version);
                }
            }
        }
    }
}

/// Updates the snapshot of each version of a random history to the newest version, and compares it with the
/// one that is built from all facts. Returns the number of differences. With `forgets_removals`, the update
/// has a defect: it ignores facts that ended.
fn count_differences(seed: u64, forgets_removals: bool) -> usize {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut table = Table::default();
    let mut snapshots = vec![];
    for version in 1..=VERSIONS {
        for _ in 0..=random.below(3) {
            random.change(&mut table, version);
        }
        snapshots.push(table.load(version));
    }
    let newest = table.load(VERSIONS);
    let differs = |it: &&Snapshot| {
        let mut changes = table.changes_since(it.version);
        if forgets_removals {
            changes.retain(|it| it.is_current);
        }
        let mut base = (*it).clone();
        base.version = VERSIONS;
        update(base, changes) != newest
    };
    snapshots.iter().filter(differs).count()
}

#[test]
fn an_updated_snapshot_equals_one_that_is_built_from_all_facts() {
    for seed in 1..=HISTORIES {
        assert_eq!(count_differences(seed, false), 0, "seed {seed}");
    }
}

/// Proves that the test above can fail.
#[test]
fn an_update_that_forgets_removals_is_found() {
    let found = (1..=100).filter(|seed| count_differences(*seed, true) > 0).count();
    assert!(found > 90, "{found}");
}
