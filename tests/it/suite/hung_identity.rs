//! An identity service that accepts calls and never answers: other services answer the calls that do not need
//! it, and calls that wait for it hold no database connection.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use tenantry::{
    client::{CallError, Client},
    demo::Services,
};
use testkit::{PASSWORD, Person, eventually};
use tokio::task::JoinSet;

use crate::support::{service_processes::ServiceProcesses, world::text};

/// Number of waiting calls per service: more than the 8 connections of its pool.
const WAITING_CALLS: usize = 12;

/// Maximum duration of a call that does not need identity.
const CALL_TIME_MAX: Duration = Duration::from_secs(2);

/// A JSON call of a signed-in person at a service.
async fn call(client: &Client, token: &str, method: &str, request: Value) -> Value {
    let answer = client.with_token(token).call_json(method, request.clone()).await;
    answer.unwrap_or_else(|error| panic!("{method} {request}: {error}"))
}

/// An organization with a connected server and with one invitation per guest.
struct Fixture {
    org: String,
    owner_token: String,
    agent_token: String,
    /// Tokens of the sessions and of the invitations of the guests.
    guests: Vec<(String, String)>,
}

impl Fixture {
    async fn new(processes: &ServiceProcesses) -> Self {
        let Services { identity, project, invitation, .. } = &processes.clients;
        let owner = Person::join(identity, &processes.mailbox, "owner@example.com").await.unwrap();
        let org = owner.create_organization("acme").await.unwrap();
        let connect = json!({ "orgId": org, "name": "eu-1", "address": "eu-1.example.com" });
        let method = "project.v1.ServerService/ConnectServer";
        let connected = call(project, &owner.token, method, connect).await;
        let mut guests = vec![];
        for number in 0..WAITING_CALLS {
            let email = format!("guest{number}@example.com");
            let guest = Person::join(identity, &processes.mailbox, &email).await.unwrap();
            let create = json!({ "orgId": org, "email": email, "role": "ORG_ROLE_VIEWER" });
            let method = "invitation.v1.InvitationService/CreateInvitation";
            call(invitation, &owner.token, method, create).await;
            let token = processes.mailbox.token(&email, "tny_inv_").await.unwrap();
            guests.push((guest.token, token));
        }
        let agent_token = text(&connected["agentToken"]);
        Self { org, owner_token: owner.token, agent_token, guests }
    }

    /// Starts calls that need identity in the middle of their handlers: acceptances, which take a seat, and
    /// creations of projects, which register the project.
    fn start_waiting_calls(&self, clients: &Services) -> JoinSet<Result<Value, CallError>> {
        let mut calls = JoinSet::new();
        for (number, (session, invitation)) in self.guests.iter().enumerate() {
            let guest = clients.invitation.with_token(session);
            let accept = json!({ "token": invitation });
            calls.spawn(async move {
                guest.call_json("invitation.v1.InvitationService/AcceptInvitation", accept).await
            });
            let owner = clients.project.with_token(&self.owner_token);
            let create = json!({
                "orgId": self.org, "name": format!("Project {number}"),
                "repositoryUrl": "https://git.example.com/acme/shop.git",
            });
            calls.spawn(async move {
                owner.call_json("project.v1.ProjectService/CreateProject", create).await
            });
        }
        calls
    }

    /// Calls of both services that do not need identity.
    async fn call_without_identity(&self, clients: &Services) {
        let preview = json!({ "token": self.guests[0].1 });
        let method = "invitation.v1.InvitationService/PreviewInvitation";
        clients.invitation.call_json(method, preview).await.unwrap();
        let heartbeat = json!({ "runner": "eu-1" });
        call(&clients.project, &self.agent_token, "project.v1.RunnerService/Heartbeat", heartbeat)
            .await;
    }
}

/// Identity accepts calls and never answers while 12 calls of each service wait for it in their handlers.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_for_identity_hold_no_connection() {
    let processes = ServiceProcesses::start().await;
    let fixture = Fixture::new(&processes).await;
    let mut database = PgConnection::connect(&processes.database.url()).await.unwrap();
    let observer = PgConnection::connect(&processes.database.url()).await.unwrap();
    let observer = tokio::sync::Mutex::new(observer);
    let count = async |sql: &'static str| -> i64 {
        sqlx::query_scalar(sql).fetch_one(&mut *observer.lock().await).await.unwrap()
    };

    // The lock keeps identity from answering the calls until its process is stopped.
    let lock = "begin; select from identity.organization for update";
    database.execute(lock).await.unwrap();
    let mut waiting = fixture.start_waiting_calls(&processes.clients);
    let blocked = "select count(*) from pg_stat_activity where datname = current_database()
                   and application_name = 'identity' and wait_event_type = 'Lock'";
    eventually("blocked calls of identity", async || (count(blocked).await >= 4).then_some(()))
        .await;
    processes.services[0].suspend();

    let in_use = "select count(*) from pg_stat_activity where datname = current_database()
                  and application_name in ('project', 'invitation')
                  and state like 'idle in transaction%'";
    eventually("connections without transactions", async || {
        (count(in_use).await == 0).then_some(())
    })
    .await;
    for _ in 0..5 {
        let begun = Instant::now();
        fixture.call_without_identity(&processes.clients).await;
        let took = begun.elapsed();
        assert!(took < CALL_TIME_MAX, "calls that do not need identity took {took:?}");
    }
    // Background jobs have short transactions; one of a waiting call would stay.
    eventually("connections without transactions", async || {
        (count(in_use).await == 0).then_some(())
    })
    .await;
    let unfinished = 2 * WAITING_CALLS - std::iter::from_fn(|| waiting.try_join_next()).count();
    // More than the connections of a pool, so that they could exhaust it.
    assert!(unfinished > 8, "only {unfinished} calls still wait for identity");

    processes.services[0].resume();
    database.execute("rollback").await.unwrap();
    while waiting.join_next().await.is_some() {}
    let login = json!({ "email": "owner@example.com", "password": PASSWORD });
    processes.clients.identity.call_json("identity.v1.SessionService/Login", login).await.unwrap();
    let list = json!({ "orgId": fixture.org });
    let method = "project.v1.ProjectService/ListProjects";
    call(&processes.clients.project, &fixture.owner_token, method, list).await;
    processes.stop().await;
}
