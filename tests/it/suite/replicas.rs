//! Two replicas of a service: calls of other services are balanced over them, and go on when one hangs or
//! ends, and when both close their connections.

use std::time::{Duration, Instant};

use serde_json::json;
use testkit::Person;

use crate::support::service_processes::{ServiceProcesses, Topology};

/// Longest duration of a read whose first attempt went to a replica that hangs: the time-out of this attempt
/// (2 s) for the authentication and for the decision, and the second attempts.
const READ_MAX: Duration = Duration::from_secs(8);

/// Project calls identity for each of these calls: to authenticate, to decide, and to register a project.
struct Caller<'a> {
    processes: &'a ServiceProcesses,
    owner: Person,
    org: String,
}

impl<'a> Caller<'a> {
    async fn new(processes: &'a ServiceProcesses) -> Self {
        let identity = &processes.clients.identity;
        let owner = Person::join(identity, &processes.mailbox, "owner@example.com").await.unwrap();
        let org = owner.create_organization("acme").await.unwrap();
        owner.change_plan(&org, api::identity::Plan::Pro).await.unwrap();
        Self { processes, owner, org }
    }

    async fn read(&self) -> Result<Duration, String> {
        let begun = Instant::now();
        let list = json!({ "orgId": self.org });
        let project = self.processes.clients.project.with_token(&self.owner.token);
        let listed = project.call_json("project.v1.ProjectService/ListProjects", list).await;
        listed.map(|_| begun.elapsed()).map_err(|error| error.to_string())
    }

    async fn change(&self, name: String) -> Result<(), String> {
        let create = json!({
            "orgId": self.org, "name": name,
            "repositoryUrl": "https://git.example.com/acme/shop.git",
        });
        let project = self.processes.clients.project.with_token(&self.owner.token);
        let created = project.call_json("project.v1.ProjectService/CreateProject", create).await;
        created.map(drop).map_err(|error| error.to_string())
    }

    /// Calls that must all succeed.
    async fn call_all(&self, when: &str) {
        for number in 0..20 {
            let logs = || self.processes.logs();
            let took = self.read().await.unwrap_or_else(|it| panic!("{when}: {it}\n{}", logs()));
            assert!(took < READ_MAX, "{when}: a read took {took:?}");
            let name = format!("{when} {number}");
            self.change(name).await.unwrap_or_else(|it| panic!("{when}: {it}\n{}", logs()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_on_when_a_replica_hangs_or_ends() {
    let mut processes = ServiceProcesses::start_with_replica_of(Some("identity")).await;
    let replica = processes.services.pop().unwrap();
    let caller = Caller::new(&processes).await;
    caller.call_all("two replicas").await;
    replica.suspend();
    caller.call_all("one hangs").await;
    replica.resume();
    caller.call_all("two again").await;
    replica.kill();
    caller.call_all("one ended").await;
    processes.stop().await;
}

/// Every connection is closed about when the next call begins: a call may be sent on a connection that its
/// peer is closing. Reads are repeated on another connection, and changes that were not processed.
#[tokio::test(flavor = "multi_thread")]
async fn calls_go_on_when_replicas_close_idle_connections() {
    let arguments = vec!["--connection-idle-ms-max=1"];
    let topology = Topology { replicated: Some("identity"), arguments, ..Topology::default() };
    let processes = ServiceProcesses::start_with(topology).await;
    let caller = Caller::new(&processes).await;
    for round in 0..5 {
        caller.call_all(&format!("round {round}")).await;
    }
    processes.stop().await;
}
