//! Repositories and branches of Git connections, and the installation of push webhooks, by the APIs of
//! GitHub, GitLab and Gitea. The responses have the shape of the documentation of these APIs.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use testkit::{ApiRequest, ApiResponse, GitServer, Options, Repository, SshServer, Suite};

use super::push_webhook::{post, push_body, signature};
use crate::support::{
    hosting::PROJECTS,
    world::{World, merge, text},
};

const CONNECTIONS: &str = "project.v1.GitConnectionService";
const TOKEN: &str = "git-t0ken-1";

/// Provider of a connection, and the differences of its API.
#[derive(Clone, Copy, PartialEq)]
enum Provider {
    GitHub,
    GitLab,
    Gitea,
}

impl Provider {
    const ALL: [Self; 3] = [Self::GitHub, Self::GitLab, Self::Gitea];

    fn name(self) -> &'static str {
        match self {
            Self::GitHub => "GIT_PROVIDER_GITHUB",
            Self::GitLab => "GIT_PROVIDER_GITLAB",
            Self::Gitea => "GIT_PROVIDER_GITEA",
        }
    }

    fn username(self) -> &'static str {
        match self {
            Self::GitHub => "x-access-token",
            Self::GitLab => "oauth2",
            Self::Gitea => "git",
        }
    }

    fn authorization(self) -> String {
        match self {
            Self::GitHub | Self::GitLab => format!("Bearer {TOKEN}"),
            Self::Gitea => format!("token {TOKEN}"),
        }
    }

    /// Method and path of the list of repositories.
    fn repositories(self) -> &'static str {
        match self {
            Self::GitHub => "GET /api/v3/user/repos",
            Self::GitLab => "GET /api/v4/projects",
            Self::Gitea => "GET /api/v1/user/repos",
        }
    }

    /// Path of the webhooks of `acme/shop`.
    fn webhooks(self) -> &'static str {
        match self {
            Self::GitHub => "/api/v3/repos/acme/shop/hooks",
            Self::GitLab => "/api/v4/projects/acme%2Fshop/hooks",
            Self::Gitea => "/api/v1/repos/acme/shop/hooks",
        }
    }

    /// A repository in a list.
    fn repository(self, number: usize) -> Value {
        let name = format!("acme/app-{number:03}");
        let url = format!("https://git.example.com/{name}.git");
        match self {
            Self::GitLab => {
                json!({ "id": number, "path_with_namespace": name, "visibility": "private",
                "http_url_to_repo": url, "default_branch": "main" })
            }
            Self::GitHub | Self::Gitea => json!({ "id": number, "full_name": name, "private": true,
                "clone_url": url, "default_branch": "main" }),
        }
    }

    /// A stored webhook in a list, from the body that created it.
    fn webhook(self, body: &Value) -> Value {
        match self {
            Self::GitLab => json!({ "id": 7, "url": body["url"], "push_events": true }),
            Self::GitHub | Self::Gitea => json!({ "id": 7, "active": true, "events": ["push"],
                "config": { "url": body["config"]["url"], "content_type": "json" } }),
        }
    }

    fn secret(self, body: &Value) -> String {
        text(if self == Self::GitLab { &body["token"] } else { &body["config"]["secret"] })
    }
}

/// State of a Git server with an API.
#[derive(Default)]
struct State {
    /// Body of the request that created or changed the webhook; null without a webhook.
    webhook: Value,
    requests: Vec<String>,
    /// Body of every response if the server refuses all requests to its API.
    refusal: Option<Value>,
}

/// Number of repositories of the server.
const REPOSITORIES: usize = 120;

fn respond(provider: Provider, state: &mut State, request: &ApiRequest) -> ApiResponse {
    let ok = |body| ApiResponse { status: "200 OK", has_next: false, body };
    let (line, query) = request.line.split_once('?').unwrap_or((&request.line, ""));
    state.requests.push(line.to_owned());
    if request.authorization != provider.authorization() {
        let body = json!({ "message": "Bad credentials" });
        return ApiResponse { status: "401 Unauthorized", has_next: false, body };
    }
    if let Some(body) = state.refusal.clone() {
        return ApiResponse { status: "403 Forbidden", has_next: false, body };
    }
    if line == provider.repositories() {
        let page = query.split('&').find_map(|it| it.strip_prefix("page=")).unwrap();
        let first: usize = (page.parse::<usize>().unwrap() - 1) * 50;
        let end = (first + 50).min(REPOSITORIES);
        let body = (first..end).map(|it| provider.repository(it)).collect();
        return ApiResponse { status: "200 OK", has_next: end < REPOSITORIES, body };
    }
    let (method, path) = line.split_once(' ').unwrap();
    let change = if provider == Provider::GitLab { "PUT" } else { "PATCH" };
    let changed = format!("{}/7", provider.webhooks());
    if method == "GET" && path == provider.webhooks() {
        let is_stored = !state.webhook.is_null();
        ok(is_stored.then(|| provider.webhook(&state.webhook)).into_iter().collect())
    } else if (method == "POST" && path == provider.webhooks())
        || (method == change && path == changed)
    {
        state.webhook = request.body.clone();
        ok(provider.webhook(&state.webhook))
    } else {
        let body = json!({ "message": "Not Found" });
        ApiResponse { status: "404 Not Found", has_next: false, body }
    }
}

/// An organization with a connection to a server with an API.
struct Setup {
    suite: Suite,
    world: World,
    server: GitServer,
    ssh: SshServer,
    repository: Repository,
    state: Arc<Mutex<State>>,
    provider: Provider,
    connection: Value,
}

impl Setup {
    async fn new(provider: Provider) -> Self {
        let repository = Repository::new("one");
        let state = Arc::<Mutex<State>>::default();
        let shared = state.clone();
        let api = move |it: &ApiRequest| respond(provider, &mut shared.lock().unwrap(), it);
        let server =
            GitServer::start_with_api(repository.path(), provider.username(), TOKEN, api).await;
        let ssh = SshServer::start().await;
        let connection_exceptions = vec![server.exception(), ssh.exception()];
        let options = Options { connection_exceptions, ..Options::default() };
        let suite = Suite::start_with(options).await;
        let world = World::new(&suite).await;
        let mut setup = Self {
            suite,
            world,
            server,
            ssh,
            repository,
            state,
            provider,
            connection: Value::Null,
        };
        let fields = json!({
            "name": "Forge", "provider": provider.name(), "token": TOKEN,
            "testRepositoryUrl": setup.server.url(),
        });
        let created = setup.call("CreateGitConnection", fields).await;
        setup.connection = created["gitConnection"]["id"].clone();
        setup
    }

    async fn call(&self, method: &str, fields: Value) -> Value {
        let request = self.world.org_request(fields);
        self.world.admin.call_ok(&format!("{CONNECTIONS}/{method}"), request).await
    }

    async fn refusal(&self, method: &str, fields: Value) -> tenantry::client::CallError {
        let request = self.world.org_request(fields);
        self.world.admin.call(&format!("{CONNECTIONS}/{method}"), request).await.unwrap_err()
    }

    fn connected(&self, fields: Value) -> Value {
        merge(json!({ "gitConnectionId": self.connection }), fields)
    }

    /// Creates a project with the connection, for the repository `acme/shop`; returns its id.
    async fn create_project(&self) -> String {
        let url = format!("{}/acme/shop.git", self.server.base_url());
        let fields = self.connected(json!({ "name": "Store", "repositoryUrl": url }));
        let request = self.world.org_request(fields);
        let method = format!("{PROJECTS}/CreateProject");
        text(&self.world.owner.call_ok(&method, request).await["project"]["id"])
    }

    async fn install(&self, project: &str) -> Result<Value, tenantry::client::CallError> {
        let request = self.world.org_request(json!({ "projectId": project }));
        self.world.owner.call(&format!("{PROJECTS}/InstallPushWebhook"), request).await
    }

    fn webhook(&self) -> Value {
        self.state.lock().unwrap().webhook.clone()
    }
}

/// Each page of the API is read once for a page of 50, and the pages have all repositories in their order.
#[tokio::test(flavor = "multi_thread")]
async fn repositories_of_each_api_are_listed() {
    for provider in Provider::ALL {
        let setup = Setup::new(provider).await;
        let mut names = vec![];
        let mut token = Value::String(String::new());
        loop {
            let fields = setup.connected(json!({ "pageSize": 30, "pageToken": token }));
            let page = setup.call("ListRepositories", fields).await;
            let rows = page["repositories"].as_array().cloned().unwrap_or_default();
            assert!(rows.len() <= 30, "{page}");
            assert!(rows.iter().all(|it| it["private"] == true && it["defaultBranch"] == "main"));
            names.extend(rows.iter().map(|it| text(&it["name"])));
            token = page["nextPageToken"].clone();
            if token.as_str().is_none_or(str::is_empty) {
                break;
            }
        }
        let expected: Vec<_> = (0..REPOSITORIES).map(|it| format!("acme/app-{it:03}")).collect();
        assert_eq!(names, expected);

        let refusal = json!({ "message": "Resource not accessible by personal access token" });
        setup.state.lock().unwrap().refusal = Some(refusal);
        let refused = setup.refusal("ListRepositories", setup.connected(json!({}))).await;
        assert_eq!(refused.reason, "GIT_API_FAILED", "{refused}");
        assert!(refused.message.contains("403: Resource not accessible"), "{refused}");
        assert!(!refused.to_string().contains(TOKEN), "{refused}");
        setup.suite.finish().await;
    }
}

/// A connection without an API lists branches, but no repositories; only those who create projects list them.
#[tokio::test(flavor = "multi_thread")]
async fn branches_are_listed_by_https_and_ssh() {
    let setup = Setup::new(Provider::Gitea).await;
    setup.repository.git(&["branch", "feature/one"]);
    setup.repository.git(&["tag", "v1"]);
    let fields = setup.connected(json!({ "repositoryUrl": setup.server.url(), "pageSize": 1 }));
    let first = setup.call("ListBranches", fields.clone()).await;
    assert_eq!(first["branches"][0]["name"], "feature/one", "{first}");
    let next = merge(fields.clone(), json!({ "pageToken": first["nextPageToken"] }));
    let second = setup.call("ListBranches", next).await;
    assert_eq!(second["branches"][0]["name"], "main", "{second}");
    assert_eq!(second["branches"][0]["default"], true, "{second}");
    let head = setup.repository.git(&["rev-parse", "HEAD"]);
    assert_eq!(second["branches"][0]["commit"], head.trim());
    assert_eq!(second["nextPageToken"], Value::Null, "{second}");

    let key = setup.call("CreateDeployKey", json!({})).await["deployKey"].clone();
    setup.ssh.authorize(&text(&key["publicKey"]));
    let url = setup.ssh.url(setup.repository.path());
    let create = json!({ "name": "SSH", "testRepositoryUrl": url, "deployKeyId": key["id"] });
    let ssh = setup.call("CreateGitConnection", create).await["gitConnection"]["id"].clone();
    let by_ssh = json!({ "gitConnectionId": ssh, "repositoryUrl": url });
    let listed = setup.call("ListBranches", by_ssh).await;
    assert_eq!(listed["branches"].as_array().map(Vec::len), Some(2), "{listed}");
    let refused = setup.refusal("ListRepositories", json!({ "gitConnectionId": ssh })).await;
    assert_eq!(refused.reason, "GIT_API_UNAVAILABLE", "{refused}");

    let other = json!({ "repositoryUrl": "https://other.example.com/a.git" });
    let refused = setup.refusal("ListBranches", setup.connected(other)).await;
    assert_eq!(refused.reason, "INVALID_FIELD", "{refused}");
    let missing = json!({ "repositoryUrl": format!("{}/none/a.git", setup.server.base_url()) });
    let refused = setup.refusal("ListBranches", setup.connected(missing)).await;
    assert_eq!(refused.reason, "GIT_API_FAILED", "{refused}");
    for (method, fields) in
        [("ListBranches", fields), ("ListRepositories", setup.connected(json!({})))]
    {
        let request = setup.world.org_request(fields);
        let method = format!("{CONNECTIONS}/{method}");
        let refused = setup.world.viewer.call(&method, request).await.unwrap_err();
        assert_eq!(refused.reason, "MISSING_PERMISSION", "{refused}");
    }
    setup.suite.finish().await;
}

/// The installed webhook delivers pushes. A second installation changes the same webhook and keeps its
/// secret; one after a rotation stores the new secret.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_webhook_is_installed_once() {
    for provider in Provider::ALL {
        let setup = Setup::new(provider).await;
        let project = setup.create_project().await;
        let installed = setup.install(&project).await.unwrap();
        let url = text(&installed["url"]);
        let body = setup.webhook();
        let secret = provider.secret(&body);
        let target =
            if provider == Provider::GitLab { &body["url"] } else { &body["config"]["url"] };
        assert_eq!(text(target), url);
        assert!(secret.len() >= 32, "{body}");
        let path = url[url.find("/hooks/").unwrap()..].to_owned();
        assert_eq!(deliver(&setup, &path, &secret).await, 200);

        setup.install(&project).await.unwrap();
        assert_eq!(provider.secret(&setup.webhook()), secret);
        let rotate = setup.world.org_request(json!({ "projectId": project }));
        let method = format!("{PROJECTS}/RotatePushSecret");
        let rotated = setup.world.owner.call_ok(&method, rotate).await;
        assert_eq!(deliver(&setup, &path, &secret).await, 401);
        setup.install(&project).await.unwrap();
        let secret = provider.secret(&setup.webhook());
        assert_eq!(secret, text(&rotated["secret"]));
        assert_eq!(deliver(&setup, &path, &secret).await, 200);
        let requests = setup.state.lock().unwrap().requests.clone();
        let posts = requests.iter().filter(|it| it.starts_with("POST")).count();
        assert_eq!(posts, 1, "one webhook is created");

        setup.suite.wait_for_log().await;
        assert_eq!(setup.suite.count_entries("project.push_webhook_installed").await, 3);
        setup.suite.finish().await;
    }
}

/// A failed installation changes nothing for the deliveries of a webhook that was configured by hand.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_installation_keeps_the_secret() {
    let setup = Setup::new(Provider::GitHub).await;
    let project = setup.create_project().await;
    let rotate = setup.world.org_request(json!({ "projectId": project }));
    let method = format!("{PROJECTS}/RotatePushSecret");
    let hook = setup.world.owner.call_ok(&method, rotate).await;
    let url = text(&hook["url"]);
    let path = url[url.find("/hooks/").unwrap()..].to_owned();
    let refusal = json!({ "message": "Validation Failed", "errors": [{ "resource": "Hook",
        "message": "url is not supported because it isn't reachable over the public Internet" }] });
    setup.state.lock().unwrap().refusal = Some(refusal);
    let refused = setup.install(&project).await.unwrap_err();
    assert_eq!(refused.reason, "GIT_API_FAILED", "{refused}");
    assert!(refused.message.contains("isn't reachable"), "{refused}");
    assert_eq!(deliver(&setup, &path, &text(&hook["secret"])).await, 200);

    // The project of the world has no connection.
    let refused = setup.install(&setup.world.project).await.unwrap_err();
    assert_eq!(refused.reason, "GIT_API_UNAVAILABLE", "{refused}");
    setup.suite.finish().await;
}

/// Delivers a push in the format of the provider; returns the HTTP status.
async fn deliver(setup: &Setup, path: &str, secret: &str) -> u16 {
    let body = push_body("main", &"a".repeat(40));
    let signed = signature(secret, &body);
    let github = format!("sha256={signed}");
    let headers = match setup.provider {
        Provider::GitHub => [("x-github-event", "push"), ("x-hub-signature-256", &*github)],
        Provider::GitLab => [("x-gitlab-event", "Push Hook"), ("x-gitlab-token", secret)],
        Provider::Gitea => [("x-gitea-event", "push"), ("x-gitea-signature", &*signed)],
    };
    post(setup.suite.address, path, &headers, &body).await.0
}
