//! The whole suite against a naive reference: random operations by random people in two organizations, each
//! asked of the real service and of the reference; after each, everybody's rights are compared.

mod dice;
mod reference;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use testkit::{Person, Suite};

use self::{
    dice::{Dice, PROJECTS, USERS, kind},
    reference::{Holder, Id, Model, OWNER, Op, PERMISSIONS},
};
use crate::{
    authorization::create_project,
    world::{admit, text},
};

/// How many operations one run asks for. `MODEL_STEPS` plays more.
const STEPS: u64 = 150;

/// An organization, and what it should be.
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
            // Creators get a grant of their own (ID-39), which the reference does not begin with.
            let principal = json!({ "principal": { "userId": person.user_id } });
            let remove =
                crate::world::merge(json!({ "orgId": org, "projectId": project }), principal);
            person.tell("identity.v1.ProjectAccessService/RemoveProjectAccess", remove).await;
            projects.push(project);
        }
        let model = Model::new(owner, &(0..PROJECTS).collect::<Vec<_>>());
        Self { org, owner, projects, teams: BTreeMap::new(), model }
    }

    /// Does it; whether it was allowed.
    async fn act(&mut self, people: &[Person], op: Op) -> bool {
        let person = |it: Id| &people[usize::from(it)];
        let user = |it: Id| json!({ "orgId": self.org, "userId": person(it).user_id });
        let nothing = chassis::id::new().to_string();
        let team = |it: Id| self.teams.get(&it).unwrap_or(&nothing).clone();
        let in_team = |id: Id, it: Id| crate::world::merge(user(it), json!({ "teamId": team(id) }));
        let on = |project: Id, holder: Holder, more: Value| {
            let principal = match holder {
                Holder::User(it) => json!({ "userId": person(it).user_id }),
                Holder::Team(it) => json!({ "teamId": team(it) }),
            };
            let project = &self.projects[usize::from(project)];
            let place = json!({ "orgId": self.org, "projectId": project, "principal": principal });
            crate::world::merge(place, more)
        };
        let (by, method, body) = match op {
            Op::Join { user, role } => {
                let owner = self.model.members.iter().find(|it| *it.1 == OWNER).map(|it| *it.0);
                if self.model.org_role(user) > 0 {
                    return false;
                }
                let by = person(owner.unwrap_or(self.owner));
                admit(by, &self.org, person(user), role_name(role)).await;
                return true;
            }
            Op::ChangeRole { by, user: it, role } => {
                let role = json!({ "role": format!("ORG_ROLE_{}", role_name(role)) });
                (by, "MemberService/ChangeMemberRole", crate::world::merge(user(it), role))
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
                (by, "ProjectAccessService/SetProjectAccess", on(project, holder, role))
            }
            Op::Revoke { by, project, holder } => {
                (by, "ProjectAccessService/RemoveProjectAccess", on(project, holder, json!({})))
            }
        };
        let answer = person(by).ask(&format!("identity.v1.{method}"), body).await;
        if let (Ok(answer), Op::CreateTeam { team, .. }) = (&answer, op) {
            self.teams.insert(team, text(&answer["team"]["id"]));
        }
        if let (Ok(_), Op::DeleteTeam { team, .. }) = (&answer, op) {
            self.teams.remove(&team);
        }
        answer.is_ok()
    }

    /// Everybody's rights, one batch of questions each.
    async fn compare(&self, people: &[Person]) {
        let mut items = vec![];
        let mut questions = vec![];
        for (code, ..) in PERMISSIONS {
            let of_project = code.starts_with("project.");
            let places: Vec<_> =
                if of_project { (0..PROJECTS).map(Some).collect() } else { vec![None] };
            for place in places {
                let project = place.map(|it| self.projects[usize::from(it)].clone());
                let project = project.unwrap_or_default();
                items.push(json!({ "orgId": self.org, "projectId": project, "permission": code }));
                questions.push((*code, place));
            }
        }
        let batch = json!({ "items": items });
        for user in 0..USERS {
            let person = &people[usize::from(user)];
            let answer = person.tell("identity.v1.AccessService/BatchCheck", batch.clone()).await;
            for ((code, place), answer) in
                questions.iter().zip(answer["answers"].as_array().unwrap())
            {
                let expected = self.model.may(user, code, *place);
                assert_eq!(answer["allowed"] == true, expected, "user {user} {code} {place:?}");
            }
        }
    }

    /// Check ⇔ `ListWhoCan` ⇔ Explain, for one question.
    async fn laws(&self, people: &[Person], dice: &mut Dice) {
        let (code, ..) = PERMISSIONS[usize::from(dice.below(9))];
        let place = code.starts_with("project.").then(|| dice.below(PROJECTS));
        let project = place.map(|it| self.projects[usize::from(it)].clone()).unwrap_or_default();
        let ask = json!({ "orgId": self.org, "projectId": project, "permission": code });
        let owner = self.model.members.iter().find(|it| *it.1 == OWNER).unwrap();
        let owner = &people[usize::from(*owner.0)];
        let can = owner.tell("identity.v1.AccessService/ListWhoCan", ask.clone()).await;
        let can: Vec<_> =
            can["holders"].as_array().into_iter().flatten().map(|it| text(&it["userId"])).collect();
        let expected = self.model.who_can(code, place);
        for (number, person) in (0..USERS).zip(people) {
            let may = expected.contains(&number);
            assert_eq!(can.contains(&person.user_id), may, "ListWhoCan {code} {place:?} {number}");
            if self.model.org_role(number) == 0 {
                continue;
            }
            let why = crate::world::merge(ask.clone(), json!({ "userId": person.user_id }));
            let why = owner.tell("identity.v1.AccessService/Explain", why).await;
            assert_eq!(why["allowed"] == true, may, "Explain {code} {place:?} {number}");
            let told = why["path"].as_array().is_some_and(|it| !it.is_empty());
            assert!(!may || told, "a path allows it");
            assert!(may || !why["remedies"].as_array().unwrap().is_empty(), "something would");
        }
    }
}

fn role_name(role: u8) -> &'static str {
    ["", "VIEWER", "DEVELOPER", "ADMIN", "OWNER"][usize::from(role)]
}

/// ID-1 to ID-31, ID-37 to ID-51 as the whole suite keeps them; and what happens in one organization changes
/// nothing in the other, though the same people are in both.
#[tokio::test(flavor = "multi_thread")]
async fn the_suite_does_what_the_reference_does() {
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
        let allowed = tenant.act(&people, op).await;
        assert_eq!(allowed, tenant.model.apply(op), "step {step}: {op:?}");
        counts.entry(kind(op)).or_default()[usize::from(allowed)] += 1;
        for tenant in &tenants {
            tenant.compare(&people).await;
        }
        if step % 10 == 0 {
            tenants[0].laws(&people, &mut dice).await;
        }
    }
    assert_eq!(counts.len(), 11, "{counts:?}");
    // Every change of access is one version, with one event (I-20).
    let versions = "select count(*) from identity.access_change
        left join identity.outbox on outbox.id = event_id where outbox.id is null";
    assert_eq!(suite.count(versions).await, 0);
    let gaps = "select count(*) from identity.organization where access_version <>
        (select count(*) from identity.access_change where org_id = organization.id)";
    assert_eq!(suite.count(gaps).await, 0);
    suite.finish().await;
}
