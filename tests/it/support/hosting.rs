//! A project with a repository on this machine and a shared server whose runner executes its tasks.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Person, Repository, Suite, eventually};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::world::{World, merge, text};

pub(crate) const PROJECTS: &str = "project.v1.ProjectService";
pub(crate) const ENVIRONMENTS: &str = "project.v1.EnvironmentService";
pub(crate) const TASKS: &str = "project.v1.TaskService";
pub(crate) const SERVERS: &str = "project.v1.ServerService";
pub(crate) const RUNNER: &str = "project.v1.RunnerService";

/// A project whose repository is on this machine, and its organization.
pub(crate) struct Hosting {
    pub(crate) world: World,
    pub(crate) repository: Repository,
}

impl Hosting {
    pub(crate) async fn new(suite: &Suite) -> Self {
        let mut world = World::new(suite).await;
        let repository = Repository::new("one");
        world.owner.change_plan(&world.org, api::identity::Plan::Pro).await.unwrap();
        let create = json!({ "name": "Hosted", "repositoryUrl": repository.url() });
        let create = world.org_request(create);
        let created = world.owner.call_ok(&format!("{PROJECTS}/CreateProject"), create).await;
        world.project = text(&created["project"]["id"]);
        let shared = "select count(*) from project.server where health = 'healthy'";
        eventually("a shared server", async || (suite.count(shared).await == 1).then_some(()))
            .await;
        Self { world, repository }
    }

    pub(crate) fn owner(&self) -> &Person {
        &self.world.owner
    }

    /// Creates an environment of a kind (`PRODUCTION`); returns its id.
    pub(crate) async fn environment(&self, name: &str, kind: &str) -> String {
        let kind = format!("ENVIRONMENT_KIND_{kind}");
        self.create_environment(json!({ "name": name, "kind": kind })).await
    }

    /// Creates an environment with the fields of `CreateEnvironment`; returns its id.
    pub(crate) async fn create_environment(&self, fields: Value) -> String {
        let method = format!("{ENVIRONMENTS}/CreateEnvironment");
        let created = self.owner().call_ok(&method, self.world.project_request(fields)).await;
        text(&created["environment"]["id"])
    }

    /// A JSON request about an environment, with the fields of `more`.
    pub(crate) fn request(&self, id: &str, more: Value) -> Value {
        merge(self.world.project_request(json!({ "environmentId": id })), more)
    }

    /// Calls `<Verb>Environment` and waits for the end of the task that it starts.
    pub(crate) async fn run_task(&self, verb: &str, id: &str, more: Value) -> Value {
        let task = self.start_task(verb, id, more).await;
        self.finished_task(&task).await
    }

    /// Calls `<Verb>Environment`; returns the id of the task that it starts.
    pub(crate) async fn start_task(&self, verb: &str, id: &str, more: Value) -> String {
        let method = format!("{ENVIRONMENTS}/{verb}Environment");
        let answer = self.owner().call_ok(&method, self.request(id, more)).await;
        text(&answer["task"]["id"])
    }

    /// Calls `<Verb>Environment`, which must fail; returns the reason of the error.
    pub(crate) async fn call_err(&self, verb: &str, id: &str, more: Value) -> String {
        let method = format!("{ENVIRONMENTS}/{verb}Environment");
        self.owner().call_err(&method, self.request(id, more)).await
    }

    pub(crate) async fn task(&self, id: &str) -> Value {
        let get = self.world.project_request(json!({ "taskId": id }));
        self.owner().call_ok(&format!("{TASKS}/GetTask"), get).await["task"].clone()
    }

    /// Waits until a task is in a final state and returns it.
    pub(crate) async fn finished_task(&self, id: &str) -> Value {
        eventually("the end of a task", async || {
            let task = self.task(id).await;
            let open_states = ["TASK_STATE_QUEUED", "TASK_STATE_RUNNING"].map(Value::from);
            (!open_states.contains(&task["state"])).then_some(task)
        })
        .await
    }

    pub(crate) async fn get(&self, id: &str) -> Value {
        let method = format!("{ENVIRONMENTS}/GetEnvironment");
        self.owner().call_ok(&method, self.request(id, json!({}))).await["environment"].clone()
    }

    /// The state of an environment without its prefix: `RUNNING`.
    pub(crate) async fn state(&self, id: &str) -> String {
        text(&self.get(id).await["state"]).trim_start_matches("ENVIRONMENT_STATE_").to_owned()
    }

    /// The response body of an environment's program to `GET path`; empty if it is not reachable.
    pub(crate) async fn page(&self, id: &str, path: &str) -> String {
        let url = text(&self.get(id).await["url"]);
        visit(&url, path).await.unwrap_or_default()
    }
}

/// The response body of `GET path` at a URL; `None` if there is no response within 5 seconds.
pub(crate) async fn visit(url: &str, path: &str) -> Option<String> {
    visit_within(Duration::from_secs(5), url, path).await
}

/// The response body of `GET path` at a URL whose program must respond, on a busy machine within 40 seconds.
pub(crate) async fn response(url: &str, path: &str) -> String {
    let response = visit_within(Duration::from_secs(40), url, path).await;
    response.unwrap_or_else(|| panic!("{url} does not respond"))
}

async fn visit_within(timeout: Duration, url: &str, path: &str) -> Option<String> {
    let address = url.strip_prefix("http://")?;
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer.split_once("\r\n\r\n")?.1.to_owned())
    };
    tokio::time::timeout(timeout, exchange).await.ok()?
}
