//! Remedies of `Explain`: each named method, called by the Owner with the request of the remedy, gives the
//! permission that was refused.

use std::{collections::BTreeMap, io::Write};

use api::identity::{Plan, Subscription};
use chassis::rule::{Audience, Rules};
use prost_reflect::MethodDescriptor;
use serde_json::{Value, json};
use tenantry::client::CallError;
use testkit::{Person, Suite, eventually};

use crate::support::{
    raw,
    world::{World, add_member, merge, text},
};

const EXPLAIN: &str = "identity.v1.AccessService/Explain";

/// State of the person whose calls are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    /// Role in the organization; `None`: not a member.
    org_role: Option<&'static str>,
    /// Role on the project by a direct grant.
    grant: Option<&'static str>,
    is_blocked: bool,
}

struct Scene {
    suite: Suite,
    world: World,
    /// Administers the project.
    team: String,
    person: Person,
    /// A method for each permission that has one whose call changes nothing, with fields of a request.
    methods: BTreeMap<String, MethodDescriptor>,
}

/// The first method of each permission that validates a `request_id`: a call with an invalid one changes
/// nothing, and authorization comes before validation.
fn methods() -> BTreeMap<String, MethodDescriptor> {
    let rules = Rules::load(api::DESCRIPTORS).unwrap();
    let mut methods = BTreeMap::new();
    for method in raw::methods() {
        let rule = rules.get(&format!("/{}", raw::name(&method))).unwrap();
        let has_request_id = method.input().get_field_by_name("request_id").is_some();
        let of_both = rule.project_permission.is_some();
        if let (Audience::Permission(permission), true, false) =
            (&rule.audience, has_request_id, of_both)
        {
            methods.entry(permission.clone()).or_insert(method);
        }
    }
    methods
}

impl Scene {
    async fn new() -> Self {
        let suite = Suite::start().await;
        let world = World::new(&suite).await;
        world.owner.change_plan(&world.org, Plan::Pro).await.unwrap();
        let team = world.create_team("operations", &[]).await;
        world.grant(json!({ "teamId": team }), "ADMIN").await;
        let person = suite.person("person@example.com").await;
        Self { suite, world, team, person, methods: methods() }
    }

    fn query(&self, permission: &str) -> Value {
        let query = json!({ "permission": permission });
        if permission.starts_with("org.") {
            self.world.org_request(query)
        } else {
            self.world.project_request(query)
        }
    }

    async fn is_member(&self) -> bool {
        let get = self.world.org_request(json!({ "userId": self.person.user_id }));
        self.world.owner.call("identity.v1.MemberService/GetMember", get).await.is_ok()
    }

    /// Puts the person into a state.
    async fn set(&self, state: State) {
        let Self { suite, world, person, .. } = self;
        suite.set_subscription(&world.org, Subscription::Active).await;
        let back = json!({ "userId": world.owner.user_id });
        let transfer = "identity.v1.OrganizationService/TransferOwnership";
        // Refused unless a remedy has made the person the Owner.
        let _ = call_as_signed_in(person, transfer, world.org_request(back)).await;
        let user = world.org_request(json!({ "userId": person.user_id }));
        match state.org_role {
            None if self.is_member().await => {
                world.owner.call_ok("identity.v1.MemberService/RemoveMember", user).await;
            }
            None => {}
            Some(role) => {
                if !self.is_member().await {
                    add_member(&world.owner, &world.org, person, role).await;
                }
                let change = merge(user, json!({ "role": format!("ORG_ROLE_{role}") }));
                let method = "identity.v1.MemberService/ChangeMemberRole";
                world.owner.call_ok(method, change).await;
                let leave = json!({ "teamId": self.team, "userId": person.user_id });
                let method = "identity.v1.TeamService/RemoveTeamMember";
                let _ = world.owner.call(method, world.org_request(leave)).await;
                let principal = json!({ "userId": person.user_id });
                if let Some(role) = state.grant {
                    world.grant(principal, role).await;
                } else {
                    let remove = world.project_request(json!({ "principal": principal }));
                    let method = "identity.v1.ProjectAccessService/RemoveProjectAccess";
                    let _ = world.owner.call(method, remove).await;
                }
            }
        }
        if state.is_blocked {
            suite.set_subscription(&world.org, Subscription::Blocked).await;
            // The reaction revokes pending invitations, and must not meet that of a remedy.
            let missing = "select count(*) from identity.outbox as it
                           where type = 'tenantry.identity.v1.SubscriptionChanged'
                             and not exists (select from invitation.inbox where event_id = it.id)";
            let is_processed = async || (suite.count(missing).await == 0).then_some(());
            eventually("the reaction to the block", is_processed).await;
        }
    }

    async fn explain(&self, permission: &str) -> Value {
        let query = merge(self.query(permission), json!({ "userId": self.person.user_id }));
        // After a transfer of the ownership the former Owner is an Admin, who may ask, too.
        self.world.owner.call_ok(EXPLAIN, query).await
    }

    /// Carries a remedy out.
    async fn carry_out(&self, remedy: &Value) {
        let method = text(&remedy["method"]).trim_start_matches("tenantry.").to_owned();
        let request: Value = serde_json::from_str(remedy["request"].as_str().unwrap()).unwrap();
        let Self { suite, world, person, .. } = self;
        match method.rsplit('/').next().unwrap() {
            "SetSubscription" => suite.set_subscription(&world.org, Subscription::Active).await,
            "CreateInvitation" => {
                let invite = merge(request, json!({ "email": person.email }));
                let created = world.owner.call_ok(&method, invite).await;
                let id = json!({ "invitationId": created["invitation"]["id"] });
                let link = "invitation.v1.InvitationService/GetInvitationLink";
                let link = world.owner.call_ok(link, world.org_request(id)).await;
                let token = text(&link["link"]).rsplit('/').next().unwrap().to_owned();
                let accept = "invitation.v1.InvitationService/AcceptInvitation";
                person.call_ok(accept, json!({ "token": token })).await;
            }
            _ => drop(call_as_signed_in(&world.owner, &method, request).await.unwrap()),
        }
    }

    /// Reason of the refusal of a real method with the permission; `None`: the call is authorized, or the
    /// permission has no such method.
    async fn refusal(&self, permission: &str) -> Option<String> {
        let method = self.methods.get(permission)?;
        let mut request = json!({ "requestId": "invalid" });
        for (field, name, id) in
            [("org_id", "orgId", &self.world.org), ("project_id", "projectId", &self.world.project)]
        {
            if method.input().get_field_by_name(field).is_some() {
                request[name] = json!(id);
            }
        }
        let name = raw::name(method);
        let reason = self.person.call_err(name.trim_start_matches("tenantry."), request).await;
        (reason != "INVALID_FIELD").then_some(reason)
    }
}

/// Calls a method, and signs in again if it needs a login of the last five minutes: on a busy machine the
/// scene takes longer.
async fn call_as_signed_in(
    person: &Person,
    method: &str,
    request: Value,
) -> Result<Value, CallError> {
    match person.call(method, request.clone()).await {
        Err(error) if error.reason == "FRESH_LOGIN_REQUIRED" => {
            person.sign_in_again().await.call(method, request).await
        }
        answer => answer,
    }
}

/// Every sequence of remedies with one of each step.
fn ways(remedies: &[Value]) -> Vec<Vec<Value>> {
    let mut steps: BTreeMap<i64, Vec<&Value>> = BTreeMap::new();
    for remedy in remedies {
        steps.entry(remedy["step"].as_i64().unwrap()).or_default().push(remedy);
    }
    steps.into_values().fold(vec![vec![]], |ways, alternatives| {
        let extend = |way: Vec<Value>| {
            let alternatives = alternatives.clone();
            alternatives.into_iter().map(move |it| [way.clone(), vec![it.clone()]].concat())
        };
        ways.into_iter().flat_map(extend).collect()
    })
}

/// I-31: for every permission, role and state, each way that `Explain` names gives the permission.
#[tokio::test(flavor = "multi_thread")]
async fn every_remedy_of_a_decision_gives_the_permission() {
    let scene = Scene::new().await;
    let matrix = "identity.v1.AccessService/GetPermissionMatrix";
    let matrix = scene.world.owner.call_ok(matrix, json!({})).await;
    let codes = |table: &str| -> Vec<String> {
        let rows = matrix[table].as_array().unwrap().iter();
        // A deleted organization is restored, which nobody sees.
        rows.map(|it| text(&it["permission"])).filter(|it| it != "org.restore").collect()
    };
    let (org, project) = (codes("organization"), codes("project"));
    let mut states = vec![];
    for is_blocked in [false, true] {
        states.push(State { org_role: None, grant: None, is_blocked });
        for role in ["VIEWER", "DEVELOPER", "ADMIN"] {
            let grants = [None, Some("VIEWER"), Some("DEVELOPER"), Some("ADMIN")];
            // A blocked subscription adds the same step to each of them.
            let grants = grants.into_iter().filter(|it| !is_blocked || it.is_none());
            states.extend(grants.map(|grant| State { org_role: Some(role), grant, is_blocked }));
        }
    }
    let (mut decisions, mut denials, mut carried_out, mut real) = (0, 0, 0, 0);
    for state in states {
        scene.set(state).await;
        let permissions = project.iter().chain(org.iter().filter(|_| state.grant.is_none()));
        for permission in permissions {
            decisions += 1;
            let explained = scene.explain(permission).await;
            let remedies = explained["remedies"].as_array().cloned().unwrap_or_default();
            let refusal = scene.refusal(permission).await;
            if explained["allowed"] == true && remedies.is_empty() {
                assert_eq!(refusal, None, "{permission} {state:?}");
                continue;
            }
            denials += 1;
            assert!(!remedies.is_empty(), "{permission} {state:?}: {explained}");
            real += usize::from(refusal.is_some());
            for way in ways(&remedies) {
                carried_out += 1;
                for remedy in &way {
                    scene.carry_out(remedy).await;
                }
                let check = scene.query(permission);
                let checked = scene.person.call_ok("identity.v1.AccessService/Check", check).await;
                assert_eq!(checked["allowed"], true, "{permission} {state:?}: {way:?}");
                let refusal = scene.refusal(permission).await;
                assert_eq!(refusal, None, "{permission} {state:?}: {way:?}");
                let after = scene.explain(permission).await;
                assert!(after["allowed"] == true && after["remedies"].is_null(), "{after}");
                scene.set(state).await;
            }
        }
    }
    let counts = format!(
        "{decisions} decisions, {denials} with remedies, {carried_out} ways carried out, {real} for a \
         refused call\n"
    );
    std::io::stderr().write_all(counts.as_bytes()).unwrap();
    assert!(denials > 200 && carried_out > denials && real > 100, "{denials} {carried_out} {real}");
    scene.suite.finish().await;
}
