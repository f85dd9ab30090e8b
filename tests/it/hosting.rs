//! A project whose environments really run, for tests of what can be done with them.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Person, Repository, Suite, eventually};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::world::{World, merge, text};

pub(crate) const PROJECTS: &str = "project.v1.ProjectService";
pub(crate) const ENVIRONMENTS: &str = "project.v1.EnvironmentService";
pub(crate) const TASKS: &str = "project.v1.TaskService";
pub(crate) const SERVERS: &str = "project.v1.ServerService";
pub(crate) const RUNNER: &str = "project.v1.RunnerService";

/// A project with a repository on this machine.
pub(crate) struct Hosting {
    pub(crate) world: World,
    pub(crate) repository: Repository,
}

impl Hosting {
    pub(crate) async fn new(suite: &Suite) -> Self {
        let (mut world, repository) = (World::new(suite).await, Repository::new("one"));
        world.owner.change_plan(&world.org, api::identity::Plan::Pro).await.unwrap();
        let create = json!({ "name": "Hosted", "repositoryUrl": repository.url() });
        let made = world.owner.tell(&format!("{PROJECTS}/CreateProject"), world.here(create)).await;
        world.project = text(&made["project"]["id"]);
        let shared = "select count(*) from project.server where health = 'healthy'";
        eventually("a shared server", async || (suite.count(shared).await == 1).then_some(()))
            .await;
        Self { world, repository }
    }

    pub(crate) fn owner(&self) -> &Person {
        &self.world.owner
    }

    /// A new environment; answers its id.
    pub(crate) async fn environment(&self, name: &str, kind: &str) -> String {
        let kind = format!("ENVIRONMENT_KIND_{kind}");
        self.environment_with(json!({ "name": name, "kind": kind })).await
    }

    pub(crate) async fn environment_with(&self, draft: Value) -> String {
        let method = format!("{ENVIRONMENTS}/CreateEnvironment");
        let made = self.owner().tell(&method, self.world.there(draft)).await;
        text(&made["environment"]["id"])
    }

    /// A request about an environment.
    pub(crate) fn of(&self, id: &str, more: Value) -> Value {
        merge(self.world.there(json!({ "environmentId": id })), more)
    }

    /// Asks something of an environment and waits for the end of its task.
    pub(crate) async fn run(&self, verb: &str, id: &str, more: Value) -> Value {
        let task = self.queue(verb, id, more).await;
        self.ended(&task).await
    }

    /// Asks something of an environment; answers its task's id.
    pub(crate) async fn queue(&self, verb: &str, id: &str, more: Value) -> String {
        let method = format!("{ENVIRONMENTS}/{verb}Environment");
        let answer = self.owner().tell(&method, self.of(id, more)).await;
        text(&answer["task"]["id"])
    }

    /// The reason why something is not done.
    pub(crate) async fn refused(&self, verb: &str, id: &str, more: Value) -> String {
        let method = format!("{ENVIRONMENTS}/{verb}Environment");
        self.owner().refused(&method, self.of(id, more)).await
    }

    pub(crate) async fn task(&self, id: &str) -> Value {
        let get = self.world.there(json!({ "taskId": id }));
        self.owner().tell(&format!("{TASKS}/GetTask"), get).await["task"].clone()
    }

    /// A task when it has ended.
    pub(crate) async fn ended(&self, id: &str) -> Value {
        eventually("the end of a task", async || {
            let task = self.task(id).await;
            let going_on = ["TASK_STATE_QUEUED", "TASK_STATE_RUNNING"].map(Value::from);
            (!going_on.contains(&task["state"])).then_some(task)
        })
        .await
    }

    pub(crate) async fn get(&self, id: &str) -> Value {
        let method = format!("{ENVIRONMENTS}/GetEnvironment");
        self.owner().tell(&method, self.of(id, json!({}))).await["environment"].clone()
    }

    pub(crate) async fn state(&self, id: &str) -> String {
        text(&self.get(id).await["state"]).trim_start_matches("ENVIRONMENT_STATE_").to_owned()
    }

    /// What an environment serves under a path.
    pub(crate) async fn page(&self, id: &str, path: &str) -> String {
        let url = text(&self.get(id).await["url"]);
        visit(&url, path).await.unwrap_or_default()
    }
}

/// What is served at an address, if something is.
pub(crate) async fn visit(url: &str, path: &str) -> Option<String> {
    let address = url.strip_prefix("http://")?;
    let visit = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer.split_once("\r\n\r\n")?.1.to_owned())
    };
    tokio::time::timeout(Duration::from_secs(5), visit).await.ok()?
}
