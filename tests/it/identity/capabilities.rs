//! The nine capabilities of the brief for four roles and their API keys.

use serde_json::{Value, json};
use testkit::{Person, Suite};
use tonic::Code;

use crate::support::world::{World, text};

const CHECK: &str = "identity.v1.AccessService/Check";

/// The nine capabilities of the brief: name, method and request of a call that needs it, the roles (owner,
/// admin, developer, viewer) that have it, and true if API keys have it too. The request ids are invalid,
/// which is checked after the permission, so that no call changes anything.
fn capabilities() -> [(&'static str, &'static str, Value, [bool; 4], bool); 9] {
    let invalid = json!({ "requestId": "x" });
    [
        ("view projects", "project.v1.ProjectService/GetProject", json!({}), [true; 4], true),
        (
            "deploy environments",
            "project.v1.EnvironmentService/DeployEnvironment",
            invalid.clone(),
            [true, false, true, false],
            true,
        ),
        (
            "create projects",
            "project.v1.ProjectService/CreateProject",
            invalid.clone(),
            [true, true, true, false],
            true,
        ),
        (
            "invite and remove members",
            "identity.v1.MemberService/RemoveMember",
            invalid.clone(),
            [true, true, false, false],
            false,
        ),
        (
            "change roles",
            "identity.v1.MemberService/ChangeMemberRole",
            invalid.clone(),
            [true, true, false, false],
            false,
        ),
        (
            "manage teams",
            "identity.v1.TeamService/CreateTeam",
            invalid.clone(),
            [true, true, false, false],
            false,
        ),
        ("manage servers and settings", CHECK, json!({}), [true, true, false, false], false),
        (
            "manage billing",
            "identity.v1.OrganizationService/ChangePlan",
            invalid.clone(),
            [true, false, false, false],
            false,
        ),
        (
            "delete the organization",
            "identity.v1.OrganizationService/DeleteOrganization",
            invalid,
            [true, false, false, false],
            false,
        ),
    ]
}

/// PL-7, PL-9, PL-16, I-13, ID-14, ID-24, ID-34, ID-36, ID-42: the capabilities of the brief for
/// sessions and for full API keys of the organization. The developer and the viewer have their role on the
/// project too, the admin has none.
#[tokio::test(flavor = "multi_thread")]
async fn nine_capabilities_hold_for_four_roles_and_their_keys() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    world.grant(json!({ "userId": world.developer.user_id }), "DEVELOPER").await;
    world.grant(json!({ "userId": world.viewer.user_id }), "VIEWER").await;
    let people = [&world.owner, &world.admin, &world.developer, &world.viewer];
    let roles = ["OWNER", "ADMIN", "DEVELOPER", "VIEWER"];
    let mut keys = vec![];
    for (person, role) in people.iter().zip(roles) {
        keys.push(full_key(&world, person, role).await);
    }
    for (capability, method, body, roles_allowed, keys_allowed) in capabilities() {
        for (i, role_allowed) in roles_allowed.into_iter().enumerate() {
            let allowed = is_authorized(&world, people[i], method, &body).await;
            assert_eq!(allowed, role_allowed, "{}: {capability}", roles[i]);
            let allowed = is_authorized(&world, &keys[i], method, &body).await;
            assert_eq!(allowed, role_allowed && keys_allowed, "key of {}: {capability}", roles[i]);
        }
    }
    suite.finish().await;
}

/// A person whose client uses a new full API key. Only Admins create keys, so developers and viewers are
/// Admins during the creation; the permissions of a key are those that its owner has when it is used.
async fn full_key(world: &World, person: &Person, role: &str) -> Person {
    let promoted = matches!(role, "DEVELOPER" | "VIEWER");
    let set_role = async |role: &str| {
        let role = format!("ORG_ROLE_{role}");
        let change = world.org_request(json!({ "userId": person.user_id, "role": role }));
        world.owner.call_ok("identity.v1.MemberService/ChangeMemberRole", change).await;
    };
    if promoted {
        set_role("ADMIN").await;
    }
    let create = world.org_request(json!({ "name": "ci", "full": true }));
    let created = person.call_ok("identity.v1.ApiKeyService/CreateApiKey", create).await;
    if promoted {
        set_role(role).await;
    }
    person.with_token(&text(&created["token"]))
}

/// True if a call passes the permission check.
async fn is_authorized(world: &World, person: &Person, method: &str, body: &Value) -> bool {
    if method == CHECK {
        return world.is_allowed(person, "org.servers.manage").await;
    }
    let answer = person.call(method, world.request(method, body.clone())).await;
    match answer.map_err(|it| it.code) {
        Ok(_) | Err(Code::InvalidArgument) => true,
        Err(Code::PermissionDenied | Code::NotFound) => false,
        Err(other) => panic!("{method}: {other:?}"),
    }
}

impl World {
    /// The ids that a method of a project or of an organization needs, and more fields.
    fn request(&self, method: &str, body: Value) -> Value {
        let of_project = method.ends_with("Environment") || method.ends_with("GetProject");
        if of_project { self.project_request(body) } else { self.org_request(body) }
    }
}
