//! Decisions of snapshots, compared with a naive reference model: exhaustively for small organizations, and
//! after many random histories.

#[path = "../../../../../tests/it/identity/access_model/dice.rs"]
mod dice;
mod fuzz;
#[path = "../../../../../tests/it/identity/access_model/reference.rs"]
mod reference;

use std::collections::{BTreeMap, BTreeSet};

use chassis::{OrgId, ProjectId, TeamId, UserId};
use uuid::Uuid;

use self::{
    dice::{Dice, PROJECTS, USERS, kind},
    reference::{ADMIN, DEVELOPER, Holder, Id, Model, OWNER, Op, PERMISSIONS, VIEWER},
};
use super::{AccessQuery, Change, Snapshot, Status, Subject, Verdict};
use crate::{
    access::explain::{Labels, explain},
    policy::{OrgRole, Permission, ProjectRole},
    types::Principal,
};

/// Number of random histories.
const HISTORIES: u64 = 100_000;

/// Operations in each history.
const LENGTH: usize = 12;

fn id(kind: u128, number: Id) -> Uuid {
    Uuid::from_u128((kind << 64) | u128::from(number))
}

fn user(number: Id) -> UserId {
    UserId(id(1, number))
}

fn project(number: Id) -> ProjectId {
    ProjectId(id(2, number))
}

fn principal(holder: Holder) -> Principal {
    match holder {
        Holder::User(it) => Principal::User(user(it)),
        Holder::Team(it) => Principal::Team(TeamId(id(3, it))),
    }
}

fn org_role(role: u8) -> OrgRole {
    [OrgRole::Viewer, OrgRole::Developer, OrgRole::Admin, OrgRole::Owner][usize::from(role) - 1]
}

fn project_role(role: u8) -> ProjectRole {
    [ProjectRole::Viewer, ProjectRole::Developer, ProjectRole::Admin][usize::from(role) - 1]
}

/// Translates an operation of the reference model into changes of a snapshot.
fn changes(op: Op) -> Vec<Change> {
    match op {
        Op::Join { user: it, role } | Op::ChangeRole { user: it, role, .. } => {
            vec![Change::SetRole(user(it), org_role(role))]
        }
        Op::Remove { user: it, .. } | Op::Leave { user: it } => {
            vec![Change::RemoveMember(user(it))]
        }
        Op::Transfer { by, to } => vec![
            Change::SetRole(user(by), OrgRole::Admin),
            Change::SetRole(user(to), OrgRole::Owner),
        ],
        Op::CreateTeam { team, .. } => vec![Change::AddTeam(TeamId(id(3, team)))],
        Op::DeleteTeam { team, .. } => vec![Change::DeleteTeam(TeamId(id(3, team)))],
        Op::AddToTeam { team, user: it, .. } => {
            vec![Change::AddToTeam(TeamId(id(3, team)), user(it))]
        }
        Op::RemoveFromTeam { team, user: it, .. } => {
            vec![Change::RemoveFromTeam(TeamId(id(3, team)), user(it))]
        }
        Op::Grant { project: on, holder, role, .. } => {
            vec![Change::Grant(project(on), principal(holder), project_role(role))]
        }
        Op::Revoke { project: on, holder, .. } => {
            vec![Change::Revoke(project(on), principal(holder))]
        }
    }
}

fn apply(snapshot: &mut Snapshot, op: Op) {
    for change in changes(op) {
        snapshot.apply(change);
    }
}

/// Returns a new organization with projects, as reference model and as snapshot.
fn world() -> (Model, Snapshot) {
    let projects: Vec<Id> = (0..PROJECTS).collect();
    let mut snapshot = Snapshot::new(OrgId(id(4, 0)), 1, Status::Active);
    snapshot.apply(Change::SetRole(user(0), OrgRole::Owner));
    for number in &projects {
        snapshot.apply(Change::AddProject(project(*number)));
    }
    (Model::new(0, &projects), snapshot)
}

/// Compares every decision (user × permission × project) with the reference model. With `all`, also compares
/// Check with `ListWhoCan` and Explain. Returns the number of compared decisions.
fn compare(model: &Model, snapshot: &Snapshot, all: bool) -> Result<usize, String> {
    let labels = Labels::default();
    let mut compared = 0;
    for (code, ..) in PERMISSIONS {
        let permission = Permission::parse(code).unwrap();
        let is_on_project = code.starts_with("project.");
        let projects: Vec<_> =
            if is_on_project { (0..=PROJECTS).map(Some).collect() } else { vec![None] };
        for project_number in projects {
            let project_id = project_number.map(project);
            let query = AccessQuery { permission, project_id, write: true };
            for number in 0..USERS {
                let subject = Subject { user_id: user(number), key: None };
                let allowed = snapshot.verdict(subject, &query) == Verdict::Allowed;
                let expected = model.is_allowed(number, code, project_number);
                if allowed != expected {
                    return Err(format!(
                        "user {number} {code} {project_number:?}: {allowed}, not {expected}"
                    ));
                }
                if all && explain(snapshot, &labels, user(number), &query).allowed != expected {
                    return Err(format!(
                        "Explain differs: user {number} {code} {project_number:?}"
                    ));
                }
                compared += 1;
            }
            if all {
                let holders = snapshot.holders(&query, None, usize::MAX);
                for (index, id) in holders.iter().enumerate() {
                    let rest = snapshot.holders(&query, Some(*id), 2);
                    assert_eq!(rest, holders[index + 1..holders.len().min(index + 3)]);
                }
                let can: BTreeSet<_> = holders.into_iter().collect();
                let expected = model.who_can(code, project_number).into_iter().map(user).collect();
                if can != expected {
                    return Err(format!("ListWhoCan differs: {code} {project_number:?}"));
                }
            }
        }
    }
    for number in 0..USERS {
        let subject = Subject { user_id: user(number), key: None };
        let visible = snapshot.visible_projects(subject, None, usize::MAX).roles;
        for (index, (id, _)) in visible.iter().enumerate() {
            let rest = snapshot.visible_projects(subject, Some(*id), 2).roles;
            assert_eq!(rest, visible[index + 1..visible.len().min(index + 3)]);
        }
        let expected = (0..PROJECTS).filter(|it| model.project_role(number, *it) > 0);
        if !visible.iter().map(|it| it.0).eq(expected.map(project)) {
            return Err(format!("user {number} sees {visible:?}"));
        }
    }
    Ok(compared)
}

/// ID-8, ID-37, ID-38. Every combination for one person and one project: role in the organization or none,
/// direct grant, and grants and memberships of two teams.
#[test]
fn every_small_world_is_decided_as_the_reference_does() {
    let roles = [0, VIEWER, DEVELOPER, ADMIN];
    let mut worlds = 0;
    for org in [0, VIEWER, DEVELOPER, ADMIN, OWNER] {
        for direct in roles {
            for (a, b) in roles.into_iter().flat_map(|a| roles.map(|b| (a, b))) {
                for memberships in 0..4_u8 {
                    let mut ops =
                        vec![Op::CreateTeam { by: 0, team: 0 }, Op::CreateTeam { by: 0, team: 1 }];
                    if org > 0 {
                        ops.push(Op::Join { user: 1, role: org.min(ADMIN) });
                    }
                    for team in [0, 1].into_iter().filter(|it| memberships & (1 << it) != 0) {
                        ops.push(Op::AddToTeam { by: 0, team, user: 1 });
                    }
                    let holders =
                        [(Holder::User(1), direct), (Holder::Team(0), a), (Holder::Team(1), b)];
                    for (holder, role) in holders.into_iter().filter(|it| it.1 > 0) {
                        ops.push(Op::Grant { by: 0, project: 0, holder, role });
                    }
                    if org == OWNER {
                        ops.push(Op::Transfer { by: 0, to: 1 });
                    }
                    let (mut model, mut snapshot) = world();
                    for op in ops {
                        if model.apply(op) {
                            apply(&mut snapshot, op);
                        }
                    }
                    compare(&model, &snapshot, true).unwrap();
                    worlds += 1;
                }
            }
        }
    }
    assert_eq!(worlds, 5 * 4 * 16 * 4);
}

/// After each random history every decision is compared, and after every twentieth also Explain and
/// `ListWhoCan`. The counters prove that every operation was both allowed and refused often.
#[test]
fn many_random_histories_are_decided_as_the_reference_does() {
    let mut counts = BTreeMap::<String, [u64; 2]>::new();
    let mut compared = 0;
    for seed in 0..HISTORIES {
        let mut dice = Dice::new(seed);
        let (mut model, mut snapshot) = world();
        let mut history = vec![];
        for _ in 0..LENGTH {
            let op = dice.op();
            let allowed = model.apply(op);
            counts.entry(kind(op)).or_default()[usize::from(allowed)] += 1;
            if allowed {
                history.push(op);
                apply(&mut snapshot, op);
            }
        }
        let all = seed % 20 == 0;
        compared += compare(&model, &snapshot, all)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}\n{history:?}"));
    }
    assert_eq!(counts.len(), 11, "{counts:?}");
    assert!(counts.values().flatten().all(|it| *it > 500), "{counts:?}");
    assert!(compared > 9_000_000, "{compared}");
}

/// Proves that the tests above can fail: differences from the reference are detected in both directions.
#[test]
fn a_broken_rule_is_found() {
    let (mut model, mut snapshot) = world();
    for op in [
        Op::Join { user: 1, role: VIEWER },
        Op::Grant { by: 0, project: 0, holder: Holder::User(1), role: ADMIN },
    ] {
        assert!(model.apply(op));
        apply(&mut snapshot, op);
    }
    assert!(compare(&model, &snapshot, true).is_ok());
    model.grants.clear();
    assert!(compare(&model, &snapshot, true).is_err());
    let (model, mut snapshot) = world();
    snapshot.apply(Change::SetRole(user(2), OrgRole::Viewer));
    assert!(compare(&model, &snapshot, true).is_err());
}
