//! Git connections: tests before settings are stored, default, use by projects, deletion, and who may see and
//! change them.

use serde_json::{Value, json};
use testkit::{GitServer, Options, Person, Repository, SshServer, Suite, eventually};

use crate::support::{
    hosting::PROJECTS,
    world::{World, merge, text},
};

const CONNECTIONS: &str = "project.v1.GitConnectionService";
const PASSWORD: &str = "git-passw0rd-1";

/// An organization, and the servers of its repositories.
struct Setup {
    suite: Suite,
    world: World,
    repository: Repository,
    https: GitServer,
    ssh: SshServer,
}

impl Setup {
    async fn new() -> Self {
        let repository = Repository::new("one");
        let https = GitServer::start(repository.path(), "git", PASSWORD).await;
        let ssh = SshServer::start().await;
        let connection_exceptions = vec![https.exception(), ssh.exception()];
        let options = Options { connection_exceptions, ..Options::default() };
        let suite = Suite::start_with(options).await;
        let world = World::new(&suite).await;
        world.owner.change_plan(&world.org, api::identity::Plan::Pro).await.unwrap();
        Self { suite, world, repository, https, ssh }
    }

    /// Fields of a connection by HTTPS, replaced by those of `more`.
    fn by_https(&self, more: Value) -> Value {
        let fields =
            json!({ "name": "Forge", "testRepositoryUrl": self.https.url(), "token": PASSWORD });
        merge(fields, more)
    }

    async fn call(&self, method: &str, fields: Value) -> Value {
        let request = self.world.org_request(fields);
        self.world.admin.call_ok(&format!("{CONNECTIONS}/{method}"), request).await
    }

    async fn refusal(&self, method: &str, fields: Value) -> tenantry::client::CallError {
        let request = self.world.org_request(fields);
        self.world.admin.call(&format!("{CONNECTIONS}/{method}"), request).await.unwrap_err()
    }

    async fn create(&self, fields: Value) -> Value {
        self.call("CreateGitConnection", fields).await["gitConnection"].clone()
    }

    /// Updates a connection; the field mask has the names of the fields.
    async fn update(&self, connection: &Value, fields: Value, mask: &str) -> Value {
        let named = json!({ "gitConnectionId": connection["id"], "updateMask": mask });
        let updated = self.call("UpdateGitConnection", merge(named, fields)).await;
        updated["gitConnection"].clone()
    }

    async fn list(&self, person: &Person) -> Vec<Value> {
        let request = self.world.org_request(json!({}));
        let listed = person.call_ok(&format!("{CONNECTIONS}/ListGitConnections"), request).await;
        listed["gitConnections"].as_array().cloned().unwrap_or_default()
    }

    /// Creates a project for a repository of the HTTPS server.
    async fn create_project(&self, name: &str, more: Value) -> Value {
        let fields = json!({ "name": name, "repositoryUrl": self.https.url() });
        let request = self.world.org_request(merge(fields, more));
        let method = format!("{PROJECTS}/CreateProject");
        self.world.owner.call_ok(&method, request).await["project"].clone()
    }
}

/// PL-24, PL-28: settings whose test fails are not stored, neither at the creation nor at a change. The
/// refusal has the answer of the server and no secret.
#[tokio::test(flavor = "multi_thread")]
async fn settings_are_stored_only_after_their_test_has_passed() {
    let setup = Setup::new().await;
    let wrong = "wrong-s3cret-t0ken";
    let refusal =
        setup.refusal("CreateGitConnection", setup.by_https(json!({ "token": wrong }))).await;
    assert_eq!(refusal.reason, "CONNECTION_TEST_FAILED", "{refusal}");
    assert!(refusal.message.contains("Authentication failed"), "{refusal}");
    assert!(!refusal.to_string().contains(wrong), "{refusal}");
    assert!(setup.list(&setup.world.admin).await.is_empty());
    assert_eq!(setup.suite.count("select count(*) from project.git_connection").await, 0);

    let request_id = chassis::id::new().to_string();
    let fields = setup.by_https(json!({ "requestId": request_id }));
    let connection = setup.create(fields.clone()).await;
    assert_eq!(connection["serverUrl"], setup.https.base_url());
    assert_eq!(connection["username"], "git");
    let tests = setup.https.requests().len();
    assert_eq!(
        setup.create(fields).await,
        connection,
        "a repeated call returns the first response"
    );
    assert_eq!(setup.https.requests().len(), tests, "a repeated call is not tested again");

    let id = json!({ "gitConnectionId": connection["id"] });
    let update = json!({ "token": wrong, "updateMask": "token" });
    let refusal = setup.refusal("UpdateGitConnection", merge(id.clone(), update)).await;
    assert_eq!(refusal.reason, "CONNECTION_TEST_FAILED", "{refusal}");
    // An empty token keeps the stored one, which still passes; so does another test repository.
    let kept = setup.update(&connection, json!({ "token": "" }), "token").await;
    assert_eq!(kept["secretUpdateTime"], connection["secretUpdateTime"]);
    let url = format!("{}/./shop.git", setup.https.base_url());
    let moved = setup.update(&connection, json!({ "testRepositoryUrl": url }), "testRepositoryUrl");
    assert_eq!(moved.await["secretUpdateTime"], connection["secretUpdateTime"]);
    let tested = setup.call("TestGitConnection", id.clone()).await;
    assert_eq!(tested["success"], true, "{tested}");
    let renamed = setup.update(&connection, json!({ "name": "Old forge" }), "name").await;
    assert_eq!(renamed["name"], "Old forge");
    let stale = json!({ "name": "x", "updateMask": "name", "etag": connection["etag"] });
    assert_eq!(
        setup.refusal("UpdateGitConnection", merge(id.clone(), stale)).await.reason,
        "CONFLICT"
    );
    // The stored token is not sent to another server.
    let other = GitServer::start(setup.repository.path(), "git", PASSWORD).await;
    let update = json!({ "testRepositoryUrl": other.url(), "updateMask": "testRepositoryUrl" });
    let refusal = setup.refusal("UpdateGitConnection", merge(id, update)).await;
    assert_eq!(refusal.reason, "INVALID_FIELD", "{refusal}");
    assert!(other.requests().is_empty());
    crate::support::sealed_values::require_sealed_values(
        &setup.suite,
        &["project.git_connection.sealed"],
    )
    .await;
    setup.suite.finish().await;
}

/// PL-24: tests connect to public addresses and to those that the operator allows, also if the address is
/// written in another form. A credential in the URL is refused.
#[tokio::test(flavor = "multi_thread")]
async fn tests_connect_to_allowed_addresses_only() {
    let setup = Setup::new().await;
    let key = setup.call("CreateDeployKey", json!({})).await["deployKey"].clone();
    let other = GitServer::start(setup.repository.path(), "git", PASSWORD).await;
    for (url, reason) in [
        (other.url().as_str(), "CONNECTION_TARGET_FORBIDDEN"),
        ("https://10.0.0.1/a.git", "CONNECTION_TARGET_FORBIDDEN"),
        ("https://[::1]/a.git", "CONNECTION_TARGET_FORBIDDEN"),
        ("https://169.254.169.254/latest/meta-data", "CONNECTION_TARGET_FORBIDDEN"),
        ("https://localhost/a.git", "CONNECTION_TARGET_FORBIDDEN"),
        ("https://nothing.invalid/a.git", "CONNECTION_TARGET_FORBIDDEN"),
        ("https://0x7f.1/a.git", "INVALID_FIELD"),
        ("https://2130706433/a.git", "INVALID_FIELD"),
        ("/srv/a", "INVALID_FIELD"),
        ("file:///srv/a", "INVALID_FIELD"),
        ("https://git:s3cret@git.example.com/a.git", "REPOSITORY_URL_HAS_CREDENTIAL"),
    ] {
        let fields = setup.by_https(json!({ "testRepositoryUrl": url }));
        let refusal = setup.refusal("CreateGitConnection", fields).await;
        assert_eq!(refusal.reason, reason, "{url}: {refusal}");
        assert!(!refusal.to_string().contains("s3cret"), "{refusal}");
    }
    let ssh = json!({
        "name": "Forge", "testRepositoryUrl": "git@192.168.0.1:a.git", "deployKeyId": key["id"],
    });
    let refusal = setup.refusal("CreateGitConnection", ssh).await;
    assert_eq!(refusal.reason, "CONNECTION_TARGET_FORBIDDEN", "{refusal}");
    assert!(other.requests().is_empty());
    // Every violation at once.
    let url = json!({ "testRepositoryUrl": "ssh://git@git.example.com/a", "username": "ann" });
    let refusal = setup.refusal("CreateGitConnection", setup.by_https(url)).await;
    for field in ["token", "username", "deploy_key_id"] {
        assert!(refusal.message.contains(field), "{refusal}");
    }
    setup.suite.finish().await;
}

/// PL-24: a connection by SSH needs its key on the server. The host key is the one of the first test; another
/// one is refused with its own reason until an Admin accepts it.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_host_key_is_refused_until_it_is_accepted() {
    let mut setup = Setup::new().await;
    let key = setup.call("CreateDeployKey", json!({})).await["deployKey"].clone();
    let url = setup.ssh.url(setup.repository.path());
    let fields = json!({ "name": "By SSH", "testRepositoryUrl": url, "deployKeyId": key["id"] });
    let refusal = setup.refusal("CreateGitConnection", fields.clone()).await;
    assert_eq!(refusal.reason, "CONNECTION_TEST_FAILED", "{refusal}");
    assert!(refusal.message.contains("Permission denied"), "{refusal}");
    setup.ssh.authorize(&text(&key["publicKey"]));
    let first_key = setup.ssh.replace_host_key().await;
    let wrong = json!({ "hostKey": text(&key["publicKey"]).replace(" tenantry", "") });
    let refusal = setup.refusal("CreateGitConnection", merge(fields.clone(), wrong)).await;
    assert_eq!(refusal.reason, "CONNECTION_HOST_KEY_CHANGED", "{refusal}");
    let connection = setup.create(fields.clone()).await;
    assert_eq!(connection["hostKey"], json!(first_key));
    assert!(text(&connection["hostKeyFingerprint"]).starts_with("SHA256:"), "{connection}");
    assert_eq!(connection["publicKey"], key["publicKey"]);
    // The key belongs to the connection now.
    assert_eq!(setup.refusal("CreateGitConnection", fields).await.reason, "NOT_FOUND");

    let second_key = setup.ssh.replace_host_key().await;
    let id = json!({ "gitConnectionId": connection["id"] });
    let tested = setup.call("TestGitConnection", id.clone()).await;
    assert_eq!(tested["success"], Value::Null, "{tested}");
    assert_eq!(tested["reason"], "CONNECTION_HOST_KEY_CHANGED", "{tested}");
    assert!(text(&tested["gitConnection"]["lastTestError"]).contains("host key"), "{tested}");
    let stored = setup.call("GetGitConnection", id.clone()).await;
    assert_eq!(stored["gitConnection"]["hostKey"], json!(first_key), "a test changes no settings");
    let same = json!({ "hostKey": first_key, "updateMask": "hostKey" });
    let refusal = setup.refusal("UpdateGitConnection", merge(id.clone(), same)).await;
    assert_eq!(refusal.reason, "CONNECTION_HOST_KEY_CHANGED", "{refusal}");
    let accepted = setup.update(&connection, json!({ "hostKey": second_key }), "hostKey").await;
    assert_eq!(accepted["hostKey"], json!(second_key));
    assert_eq!(accepted["lastTestError"], Value::Null);
    assert_eq!(accepted["secretUpdateTime"], connection["secretUpdateTime"]);

    // A new key pair.
    let new = setup.call("CreateDeployKey", json!({})).await["deployKey"].clone();
    let change = json!({ "deployKeyId": new["id"], "updateMask": "deployKeyId" });
    let refusal = setup.refusal("UpdateGitConnection", merge(id, change)).await;
    assert_eq!(refusal.reason, "CONNECTION_TEST_FAILED", "{refusal}");
    setup.ssh.authorize(&text(&new["publicKey"]));
    let change = json!({ "deployKeyId": new["id"] });
    let rotated = setup.update(&connection, change, "deployKeyId").await;
    assert_eq!(rotated["publicKey"], new["publicKey"]);
    assert_ne!(rotated["secretUpdateTime"], connection["secretUpdateTime"]);
    setup.suite.finish().await;
}

/// PL-25 to PL-27: one connection is the default one, which new projects get; a used one is not deleted, and
/// the refusal lists its projects.
#[tokio::test(flavor = "multi_thread")]
async fn a_default_connection_is_used_and_a_used_one_is_not_deleted() {
    let setup = Setup::new().await;
    let first = setup.create(setup.by_https(json!({}))).await;
    let second = setup.create(setup.by_https(json!({ "name": "Second" }))).await;
    let without = setup.create_project("Without", json!({})).await;
    assert_eq!(without["gitConnectionId"], Value::Null, "a new connection changes nothing (PL-25)");
    // At the same time.
    let set_default = async |connection: &Value| {
        let id = json!({ "gitConnectionId": connection["id"] });
        setup.call("SetDefaultGitConnection", id).await;
    };
    tokio::join!(set_default(&first), set_default(&second), set_default(&first));
    set_default(&second).await;
    let listed = setup.list(&setup.world.viewer).await;
    let defaults: Vec<_> = listed.iter().filter(|it| it["default"] == true).collect();
    assert_eq!(defaults.len(), 1, "{listed:?}");
    assert_eq!(defaults[0]["id"], second["id"]);

    let by_default = setup.create_project("By default", json!({})).await;
    assert_eq!(by_default["gitConnectionId"], second["id"]);
    let elsewhere = json!({ "repositoryUrl": "https://git.example.com/a.git" });
    let elsewhere = setup.create_project("Elsewhere", elsewhere).await;
    assert_eq!(elsewhere["gitConnectionId"], Value::Null);
    let by_token = setup.create_project("By token", json!({ "repositoryToken": "t0ken" })).await;
    assert_eq!(by_token["gitConnectionId"], Value::Null);
    let named = json!({ "gitConnectionId": first["id"] });
    let named = setup.create_project("Named", named).await;
    assert_eq!(named["gitConnectionId"], first["id"]);

    let owner = &setup.world.owner;
    let update = async |project: &Value, fields: Value, mask: &str| {
        let named = json!({ "projectId": project["id"], "updateMask": mask });
        let request = setup.world.org_request(merge(named, fields));
        owner.call(&format!("{PROJECTS}/UpdateProject"), request).await
    };
    // A connection replaces a token, and is for its server only.
    let to_first = json!({ "gitConnectionId": first["id"] });
    let replaced = update(&by_token, to_first.clone(), "gitConnectionId").await.unwrap();
    assert_eq!(replaced["project"]["hasRepositoryToken"], Value::Null, "{replaced}");
    let both = update(&by_token, json!({ "repositoryToken": "t" }), "repositoryToken").await;
    assert_eq!(both.unwrap_err().reason, "INVALID_FIELD");
    let other_server = update(&elsewhere, to_first, "gitConnectionId").await.unwrap_err();
    assert_eq!(other_server.reason, "INVALID_FIELD");
    assert!(other_server.message.contains(&setup.https.base_url()), "{other_server}");

    let id = json!({ "gitConnectionId": first["id"] });
    let refusal = setup.refusal("DeleteGitConnection", id.clone()).await;
    assert_eq!(refusal.reason, "CONNECTION_IN_USE", "{refusal}");
    assert!(refusal.message.contains("By token, Named"), "{refusal}");
    // Another repository on the server keeps the connection, one on another server does not.
    let change = async |url: &str| {
        let fields = json!({
            "projectId": named["id"], "repositoryUrl": url, "confirmName": "Named",
        });
        let request = setup.world.org_request(fields);
        let method = format!("{PROJECTS}/ChangeRepository");
        owner.call_ok(&method, request).await["project"]["gitConnectionId"].clone()
    };
    assert_eq!(change(&format!("{}/b.git", setup.https.base_url())).await, first["id"]);
    assert_eq!(change("https://git.example.com/b.git").await, Value::Null);
    update(&by_token, json!({}), "gitConnectionId").await.unwrap();
    setup.call("DeleteGitConnection", id).await;
    assert_eq!(setup.list(owner).await.len(), 1);
    setup.suite.wait_for_log().await;
    for (action, count) in [("created", 2), ("deleted", 1)] {
        let action = format!("git_connection.{action}");
        assert_eq!(setup.suite.count_entries(&action).await, count, "{action}");
    }
    setup.suite.finish().await;
}

/// PL-23: every member sees that a connection exists, the Owner and Admins manage it; another organization
/// neither sees nor uses it.
#[tokio::test(flavor = "multi_thread")]
async fn members_see_connections_and_admins_of_the_organization_manage_them() {
    let setup = Setup::new().await;
    let world = &setup.world;
    let connection = setup.create(setup.by_https(json!({}))).await;
    let id = json!({ "gitConnectionId": connection["id"] });
    let changes = [
        ("CreateDeployKey", json!({})),
        ("CreateGitConnection", setup.by_https(json!({}))),
        ("TestGitConnection", id.clone()),
        ("UpdateGitConnection", merge(id.clone(), json!({ "updateMask": "name", "name": "x" }))),
        ("SetDefaultGitConnection", id.clone()),
        ("DeleteGitConnection", id.clone()),
    ];
    for person in [&world.developer, &world.viewer] {
        let listed = setup.list(person).await;
        assert_eq!(listed, std::slice::from_ref(&connection));
        for (method, fields) in &changes {
            let method = format!("{CONNECTIONS}/{method}");
            let refused = person.call_err(&method, world.org_request(fields.clone())).await;
            assert_eq!(refused, "MISSING_PERMISSION", "{method}");
        }
    }
    let stranger = setup.suite.person("stranger@example.com").await;
    let other_org = stranger.create_organization("other").await.unwrap();
    for (method, fields) in changes.iter().skip(2) {
        let request = merge(fields.clone(), json!({ "orgId": other_org }));
        let method = format!("{CONNECTIONS}/{method}");
        assert_eq!(stranger.call_err(&method, request).await, "NOT_FOUND", "{method}");
    }
    let get = merge(id.clone(), json!({ "orgId": other_org }));
    let method = format!("{CONNECTIONS}/GetGitConnection");
    assert_eq!(stranger.call_err(&method, get).await, "NOT_FOUND");
    assert_eq!(stranger.call_err(&method, world.org_request(id)).await, "NOT_FOUND");
    let project = json!({
        "orgId": other_org, "name": "Shop", "repositoryUrl": setup.https.url(),
        "gitConnectionId": connection["id"],
    });
    let refused = stranger.call_err(&format!("{PROJECTS}/CreateProject"), project).await;
    assert_eq!(refused, "NOT_FOUND");
    setup.suite.finish().await;
}

/// PL-24: deploy keys without a connection are limited, and deleted after a week.
#[tokio::test(flavor = "multi_thread")]
async fn unused_deploy_keys_are_limited_and_expire() {
    let setup = Setup::new().await;
    for _ in 0..20 {
        setup.call("CreateDeployKey", json!({})).await;
    }
    crate::support::sealed_values::require_sealed_values(
        &setup.suite,
        &["project.git_deploy_key.sealed"],
    )
    .await;
    let refusal = setup.refusal("CreateDeployKey", json!({})).await;
    assert_eq!(refusal.reason, "CONNECTION_LIMIT_REACHED", "{refusal}");
    let suite = setup.suite;
    suite.clock.advance(chassis::clock::Duration::days(8));
    // The job that deletes old rows runs at the start.
    let suite = suite.restart(async |_| {}).await;
    eventually("the deletion of the keys", async || {
        let keys = "select count(*) from project.git_deploy_key";
        (suite.count(keys).await == 0).then_some(())
    })
    .await;
    suite.finish().await;
}
