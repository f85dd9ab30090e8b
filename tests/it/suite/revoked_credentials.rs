//! Credentials that end through one replica of identity: the next read through the other one is refused, by
//! identity itself and by the services that call it.

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tenantry::{
    client::{CallError, Client},
    demo::Services,
};
use testkit::Person;

use crate::support::{
    service_processes::{ServiceProcesses, Topology},
    world::text,
};

/// Number of credentials that each test ends.
const ROUNDS: usize = 20;

/// Reads in the organization.
const ORG_READS: [(&str, &str); 6] = [
    ("identity", "identity.v1.OrganizationService/GetOrganization"),
    ("identity", "identity.v1.MemberService/ListMembers"),
    ("project", "project.v1.ProjectService/ListProjects"),
    ("project", "project.v1.ServerService/ListServers"),
    ("invitation", "notification.v1.AlertService/ListAlerts"),
    ("audit", "audit.v1.AuditService/GetRetention"),
];

/// Reads in the organization that an API key may call.
const KEY_READS: [(&str, &str); 4] = [ORG_READS[0], ORG_READS[2], ORG_READS[3], ORG_READS[4]];

/// Reads about the account alone.
const ACCOUNT_READS: [(&str, &str); 4] = [
    ("identity", "identity.v1.UserService/GetMe"),
    ("identity", "identity.v1.OrganizationService/ListOrganizations"),
    ("invitation", "notification.v1.NotificationService/ListNotifications"),
    ("audit", "audit.v1.AuditService/ListAccountEntries"),
];

/// Four services and a second identity, which the others call.
struct Deployment {
    processes: ServiceProcesses,
    second_identity: Client,
    owner: Person,
    org: String,
}

impl Deployment {
    async fn start() -> Self {
        let replicated = Some("identity");
        let topology = Topology { replicated, calls_second_only: true, ..Topology::default() };
        let processes = ServiceProcesses::start_with(topology).await;
        let second_identity = processes.second_client().await;
        let identity = &processes.clients.identity;
        let owner = Person::join(identity, &processes.mailbox, "owner@example.com").await.unwrap();
        let org = owner.create_organization("acme").await.unwrap();
        Self { processes, second_identity, owner, org }
    }

    async fn read(&self, (service, method): (&str, &str), token: &str) -> Result<Value, CallError> {
        let Services { project, invitation, audit, .. } = &self.processes.clients;
        let client = match service {
            "identity" => &self.second_identity,
            "project" => project,
            "invitation" => invitation,
            _ => audit,
        };
        let request = if ACCOUNT_READS.iter().any(|it| it.1 == method) {
            json!({})
        } else {
            json!({ "orgId": self.org })
        };
        client.with_token(token).call_json(method, request).await
    }

    async fn check(&self, token: &str, max_age_ms: i32) -> Result<Value, CallError> {
        let consistency = json!({ "maxAgeMs": max_age_ms });
        let check =
            json!({ "orgId": self.org, "permission": "org.view", "consistency": consistency });
        let check_method = "identity.v1.AccessService/Check";
        self.second_identity.with_token(token).call_json(check_method, check).await
    }

    /// Calls reads that must succeed, so that the second identity has the credential in its cache.
    async fn assert_valid(&self, reads: &[(&str, &str)], token: &str) {
        for read in reads {
            let answer = self.read(*read, token).await;
            answer.unwrap_or_else(|it| panic!("{read:?}: {it}\n{}", self.processes.logs()));
        }
    }

    async fn assert_refused(&self, reads: &[(&str, &str)], token: &str, round: usize) {
        for read in reads {
            let reason = self.read(*read, token).await.map_err(|it| it.reason);
            assert_eq!(reason, Err("INVALID_CREDENTIAL".to_owned()), "{read:?}, round {round}");
        }
        let reason = self.check(token, 0).await.map_err(|it| it.reason);
        assert_eq!(reason, Err("INVALID_CREDENTIAL".to_owned()), "Check, round {round}");
        let batch = json!({ "items": [{ "orgId": self.org, "permission": "org.view" }] });
        let method = "identity.v1.AccessService/BatchCheck";
        let reason = self.second_identity.with_token(token).call_json(method, batch).await;
        assert_eq!(reason.unwrap_err().reason, "INVALID_CREDENTIAL", "round {round}");
    }

    /// Deletes the counts of invalid keys, for ten of which an address is blocked. On a slow machine the end
    /// of a key is known before it is used, and then counts as one.
    async fn forget_invalid_keys(&self) {
        let mut connection = PgConnection::connect(&self.processes.database.url()).await.unwrap();
        for schema in ["identity", "project", "invitation", "audit"] {
            let delete = AssertSqlSafe(format!("delete from {schema}.rate_limit"));
            sqlx::query(delete).execute(&mut connection).await.unwrap();
        }
    }

    /// A person with an account of their own, who is not a member.
    async fn new_person(&self, number: usize) -> Person {
        let email = format!("person{number}@example.com");
        let identity = &self.processes.clients.identity;
        Person::join(identity, &self.processes.mailbox, &email).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ended_on_one_replica_reads_nothing_on_the_other() {
    let deployment = Deployment::start().await;
    let reads = [&ORG_READS[..], &ACCOUNT_READS].concat();
    for round in 0..ROUNDS {
        let session = deployment.owner.sign_in_again().await;
        deployment.assert_valid(&reads, &session.token).await;
        if round % 2 == 0 {
            session.call_ok("identity.v1.SessionService/Logout", json!({})).await;
        } else {
            let revoke = "identity.v1.SessionService/RevokeOtherSessions";
            deployment.owner.call_ok(revoke, json!({})).await;
        }
        deployment.assert_refused(&reads, &session.token, round).await;
    }
    deployment.processes.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_key_that_ended_on_one_replica_reads_nothing_on_the_other() {
    let deployment = Deployment::start().await;
    let Deployment { owner, org, .. } = &deployment;
    for round in 0..ROUNDS {
        let create = json!({ "orgId": org, "name": format!("key {round}") });
        let created = owner.call_ok("identity.v1.ApiKeyService/CreateApiKey", create).await;
        let token = text(&created["token"]);
        deployment.assert_valid(&KEY_READS, &token).await;
        let revoke = json!({ "orgId": org, "apiKeyId": created["apiKey"]["id"] });
        owner.call_ok("identity.v1.ApiKeyService/RevokeApiKey", revoke).await;
        deployment.assert_refused(&KEY_READS, &token, round).await;
        deployment.forget_invalid_keys().await;
    }
    deployment.processes.stop().await;
}

/// A reset of the password, and the deletion of the account, end its sessions.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_ends_its_sessions_reads_nothing_on_the_other_replica() {
    let deployment = Deployment::start().await;
    let anyone = deployment.processes.clients.identity.clone();
    for round in 0..ROUNDS {
        let person = deployment.new_person(round).await;
        let reset = json!({ "email": person.email });
        let request = "identity.v1.UserService/RequestPasswordReset";
        anyone.call_json(request, reset).await.unwrap();
        let token = deployment.processes.mailbox.token(&person.email, "tny_rst_").await.unwrap();
        deployment.assert_valid(&ACCOUNT_READS, &person.token).await;
        let reset = json!({ "token": token, "newPassword": testkit::PASSWORD });
        anyone.call_json("identity.v1.UserService/ResetPassword", reset).await.unwrap();
        deployment.assert_refused(&ACCOUNT_READS, &person.token, round).await;

        let person = person.sign_in_again().await;
        deployment.assert_valid(&ACCOUNT_READS, &person.token).await;
        let delete = json!({ "confirmEmail": person.email });
        person.call_ok("identity.v1.UserService/DeleteAccount", delete).await;
        deployment.assert_refused(&ACCOUNT_READS, &person.token, round).await;
    }
    deployment.processes.stop().await;
}

/// Only a check that allows a state of a second ago may be answered for a credential that ended within it,
/// and one that allows less is refused after less.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_is_answered_for_an_ended_session_only_if_it_allows_the_age() {
    let deployment = Deployment::start().await;
    for round in 0..ROUNDS {
        let session = deployment.owner.sign_in_again().await;
        deployment.check(&session.token, 1_000).await.unwrap();
        session.call_ok("identity.v1.SessionService/Logout", json!({})).await;
        // The revocation took longer than a millisecond.
        let reason = deployment.check(&session.token, 1).await.unwrap_err().reason;
        assert_eq!(reason, "INVALID_CREDENTIAL", "round {round}");
        match deployment.check(&session.token, 1_000).await {
            Ok(answer) => assert_eq!(answer["allowed"], true),
            Err(error) => assert_eq!(error.reason, "INVALID_CREDENTIAL"),
        }
    }
    deployment.processes.stop().await;
}
