//! Model-based test of access: random operations of random people in two organizations, applied to the suite
//! and to a naive reference model. After each operation the permissions of all people are compared.

mod dice;
mod reference;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use testkit::{Person, Suite};

use self::{
    dice::{Dice, PROJECTS, USERS, kind},
    reference::{Holder, Id, Model, OWNER, Op, PERMISSIONS},
};
use crate::support::world::{add_member, create_project, merge, text};

/// Number of operations of a run; `MODEL_STEPS` overrides it.
const STEPS: u64 = 150;

/// An organization of the suite and its reference model.
struct Tenant {
    org: String,
    owner: Id,
    projects: Vec<String>,
    teams: BTreeMap<Id, String>,
    model: Model,
}

impl Tenant {
    async fn new(people: &[Person], owner: Id, slug: &str) -> Self {
        let person = &people[usize::from(owner)];
        let org = person.create_organization(slug).await.unwrap();
        let mut projects = vec![];
        for _ in 0..PROJECTS {
            let project = create_project(person, &org).await;
            // Creators get a grant (ID-39), which the reference does not model.
            let principal = json!({ "principal": { "userId": person.user_id } });
            let remove = merge(json!({ "orgId": org, "projectId": project }), principal);
            person.call_ok("identity.v1.ProjectAccessService/RemoveProjectAccess", remove).await;
            projects.push(project);
        }
        let model = Model::new(owner, &(0..PROJECTS).collect::<Vec<_>>());
        Self { org, owner, projects, teams: BTreeMap::new(), model }
    }

    /// Performs an operation; true if the suite allowed it.
    async fn perform(&mut self, people: &[Person], op: Op) -> bool {
        let person = |it: Id| &people[usize::from(it)];
        let user = |it: Id| json!({ "orgId": self.org, "userId": person(it).user_id });
        let unknown = chassis::id::new().to_string();
        let team = |it: Id| self.teams.get(&it).unwrap_or(&unknown).clone();
        let in_team = |id: Id, it: Id| merge(user(it), json!({ "teamId": team(id) }));
        let grant = |project: Id, holder: Holder, more: Value| {
            let principal = match holder {
                Holder::User(it) => json!({ "userId": person(it).user_id }),
                Holder::Team(it) => json!({ "teamId": team(it) }),
            };
            let project = &self.projects[usize::from(project)];
            let ids = json!({ "orgId": self.org, "projectId": project, "principal": principal });
            merge(ids, more)
        };
        let (by, method, body) = match op {
            Op::Join { user, role } => {
                let owner = self.model.members.iter().find(|it| *it.1 == OWNER).map(|it| *it.0);
                if self.model.org_role(user) > 0 {
                    return false;
                }
                let by = person(owner.unwrap_or(self.owner));
                add_member(by, &self.org, person(user), role_name(role)).await;
                return true;
            }
            Op::ChangeRole { by, user: it, role } => {
                let role = json!({ "role": format!("ORG_ROLE_{}", role_name(role)) });
                (by, "MemberService/ChangeMemberRole", merge(user(it), role))
            }
            Op::Remove { by, user: it } => (by, "MemberService/RemoveMember", user(it)),
            Op::Leave { user } => {
                (user, "MemberService/LeaveOrganization", json!({ "orgId": self.org }))
            }
            Op::Transfer { by, to } => (by, "OrganizationService/TransferOwnership", user(to)),
            Op::CreateTeam { by, team } => {
                let create = json!({ "orgId": self.org, "name": format!("team {team}") });
                (by, "TeamService/CreateTeam", create)
            }
            Op::DeleteTeam { by, team: it } => {
                (by, "TeamService/DeleteTeam", json!({ "orgId": self.org, "teamId": team(it) }))
            }
            Op::AddToTeam { by, team, user } => {
                (by, "TeamService/AddTeamMember", in_team(team, user))
            }
            Op::RemoveFromTeam { by, team, user } => {
                (by, "TeamService/RemoveTeamMember", in_team(team, user))
            }
            Op::Grant { by, project, holder, role } => {
                let role = json!({ "role": format!("PROJECT_ROLE_{}", role_name(role)) });
                (by, "ProjectAccessService/SetProjectAccess", grant(project, holder, role))
            }
            Op::Revoke { by, project, holder } => {
                (by, "ProjectAccessService/RemoveProjectAccess", grant(project, holder, json!({})))
            }
        };
        let answer = person(by).call(&format!("identity.v1.{method}"), body).await;
        if let (Ok(answer), Op::CreateTeam { team, .. }) = (&answer, op) {
            self.teams.insert(team, text(&answer["team"]["id"]));
        }
        if let (Ok(_), Op::DeleteTeam { team, .. }) = (&answer, op) {
            self.teams.remove(&team);
        }
        answer.is_ok()
    }

    /// Compares all permissions of all people with the model.
    async fn compare(&self, people: &[Person]) {
        let mut items = vec![];
        let mut checks = vec![];
        for (code, ..) in PERMISSIONS {
            let of_project = code.starts_with("project.");
            let projects: Vec<_> =
                if of_project { (0..PROJECTS).map(Some).collect() } else { vec![None] };
            for number in projects {
                let project = number.map(|it| self.projects[usize::from(it)].clone());
                let project = project.unwrap_or_default();
                items.push(json!({ "orgId": self.org, "projectId": project, "permission": code }));
                checks.push((*code, number));
            }
        }
        let batch = json!({ "items": items });
        for user in 0..USERS {
            let person = &people[usize::from(user)];
            let answer =
                person.call_ok("identity.v1.AccessService/BatchCheck", batch.clone()).await;
            for ((code, project), answer) in
                checks.iter().zip(answer["answers"].as_array().unwrap())
            {
                let expected = self.model.is_allowed(user, code, *project);
                assert_eq!(answer["allowed"] == true, expected, "user {user} {code} {project:?}");
            }
        }
    }

    /// Checks that `ListWhoCan` and `Explain` agree with the model about one random permission.
    async fn compare_queries(&self, people: &[Person], dice: &mut Dice) {
        let (code, ..) = PERMISSIONS[usize::from(dice.below(9))];
        let number = code.starts_with("project.").then(|| dice.below(PROJECTS));
        let project = number.map(|it| self.projects[usize::from(it)].clone()).unwrap_or_default();
        let request = json!({ "orgId": self.org, "projectId": project, "permission": code });
        let owner = self.model.members.iter().find(|it| *it.1 == OWNER).unwrap();
        let owner = &people[usize::from(*owner.0)];
        let can = owner.call_ok("identity.v1.AccessService/ListWhoCan", request.clone()).await;
        let can: Vec<_> =
            can["holders"].as_array().into_iter().flatten().map(|it| text(&it["userId"])).collect();
        let expected = self.model.who_can(code, number);
        for (user, person) in (0..USERS).zip(people) {
            let allowed = expected.contains(&user);
            assert_eq!(
                can.contains(&person.user_id),
                allowed,
                "ListWhoCan {code} {number:?} {user}"
            );
            if self.model.org_role(user) == 0 {
                continue;
            }
            let explain = merge(request.clone(), json!({ "userId": person.user_id }));
            let explained = owner.call_ok("identity.v1.AccessService/Explain", explain).await;
            assert_eq!(explained["allowed"] == true, allowed, "Explain {code} {number:?} {user}");
            let has_path = explained["path"].as_array().is_some_and(|path| !path.is_empty());
            assert!(!allowed || has_path, "an allowed decision has a path");
            let has_remedy = explained["remedies"].as_array().is_some_and(|it| !it.is_empty());
            assert!(allowed || has_remedy, "a denied decision has a remedy");
        }
    }
}

fn role_name(role: u8) -> &'static str {
    ["", "VIEWER", "DEVELOPER", "ADMIN", "OWNER"][usize::from(role)]
}

/// ID-1 to ID-31, ID-37 to ID-51: access of the whole suite; a change in one organization changes nothing in
/// the other, although the same people are members of both.
#[tokio::test(flavor = "multi_thread")]
async fn access_matches_the_reference_model() {
    let suite = Suite::start().await;
    let mut people = vec![];
    for number in 0..USERS {
        people.push(suite.person(&format!("user{number}@example.com")).await);
    }
    let mut tenants =
        [Tenant::new(&people, 0, "acme").await, Tenant::new(&people, 1, "other").await];
    let steps = std::env::var("MODEL_STEPS").ok().and_then(|it| it.parse().ok()).unwrap_or(STEPS);
    let mut dice = Dice::new(steps);
    let mut counts = BTreeMap::<String, [u64; 2]>::new();
    for step in 0..steps {
        let op = dice.op();
        let tenant = &mut tenants[usize::from(dice.below(2))];
        let allowed = tenant.perform(&people, op).await;
        assert_eq!(allowed, tenant.model.apply(op), "step {step}: {op:?}");
        counts.entry(kind(op)).or_default()[usize::from(allowed)] += 1;
        for tenant in &tenants {
            tenant.compare(&people).await;
        }
        if step % 10 == 0 {
            tenants[0].compare_queries(&people, &mut dice).await;
        }
    }
    assert_eq!(counts.len(), 11, "{counts:?}");
    // Every change of access is one version with one event.
    let versions = "select count(*) from identity.access_change
        left join identity.outbox on outbox.id = event_id where outbox.id is null";
    assert_eq!(suite.count(versions).await, 0);
    let gaps = "select count(*) from identity.organization where access_version <>
        (select count(*) from identity.access_change where org_id = organization.id)";
    assert_eq!(suite.count(gaps).await, 0);
    suite.finish().await;
}
