//! Replacement of the certificates of running services.

use serde_json::json;
use tenantry::client::Client;
use testkit::{Person, Process, eventually};

use crate::support::service_processes::ServiceProcesses;

/// New certificates of a new authority apply to new connections; open connections stay open.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_replaced_without_a_restart() {
    let processes = ServiceProcesses::start().await;
    let clients = &processes.clients;
    let owner = Person::join(&clients.identity, &processes.mailbox, "o@example.com").await.unwrap();
    let org = owner.create_organization("acme").await.unwrap();
    let list = json!({ "orgId": org });
    let method = "project.v1.ProjectService/ListProjects";
    let old = clients.project.with_token(&owner.token);
    old.call_json(method, list.clone()).await.unwrap();

    let folder = processes.folder().join("certs");
    let created = Process::run("tenantry", &["certs", "--out", &folder.to_string_lossy()]);
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    let authority = std::fs::read_to_string(folder.join("ca.pem")).unwrap();
    let url = processes.url("project");
    let connect = async || Client::connect(url, Some(&authority)).await.ok();
    let new = eventually("the new certificate", connect).await.with_token(&owner.token);
    // Project connects to identity with its new certificate as soon as identity has its own.
    eventually("calls between services", async || {
        new.call_json(method, list.clone()).await.ok().map(drop)
    })
    .await;
    old.call_json(method, list).await.unwrap();
    processes.stop().await;
}
