//! Private repositories by HTTPS and by SSH through Git connections: deployed by calls, and their secrets are
//! in no response, event, export, table, file, log or command line.

use std::path::Path;

use api::audit::ExportFormat;
use data_encoding::BASE64;
use serde_json::{Value, json};
use testkit::{
    GitServer, Options, Process, Repository, SshServer, Suite, stop_deployments_of_runner,
};

use super::{
    private_repository::{files_with, log_of},
    process::{arguments, connect_with},
};
use crate::support::{
    audit_client::AuditClient,
    hosting::{Hosting, PROJECTS},
    tables::tables_with,
    world::{merge, text},
};

const CONNECTIONS: &str = "project.v1.GitConnectionService";
const PASSWORD: &str = "git-s3cret-passw0rd";

/// Beginning of every private key of OpenSSH, in Base64, from its second line on.
const PRIVATE_KEY: &str = "b3BlbnNzaC1rZXktdjE";

/// A suite whose runner shares the network of this machine, so that git reaches loopback addresses.
struct Setup {
    suite: Suite,
    hosting: Hosting,
    environment: String,
    process: Process,
    repository: Repository,
    https: GitServer,
    ssh: SshServer,
    /// Responses and other texts in which no secret may be.
    shown: Vec<String>,
}

impl Setup {
    async fn new(folder: &Path) -> Self {
        let repository = Repository::new("private");
        let https = GitServer::start(repository.path(), "ann", PASSWORD).await;
        let ssh = SshServer::start().await;
        let connection_exceptions = vec![https.exception(), ssh.exception()];
        let options = Options { connection_exceptions, ..Options::default() };
        let suite = Suite::start_with(options).await;
        let (hosting, environment, process) =
            connect_with(&suite, folder, |address, token, folder| {
                let arguments = arguments(address, token, folder);
                let log = folder.join("log");
                Process::start_unprivileged("tenantry-runner", &arguments, folder, &log)
            })
            .await;
        Self { suite, hosting, environment, process, repository, https, ssh, shown: vec![] }
    }

    async fn call(&mut self, method: &str, fields: Value) -> Value {
        let request = self.hosting.world.org_request(fields);
        let method = format!("{CONNECTIONS}/{method}");
        let response = self.hosting.world.admin.call_ok(&method, request).await;
        self.shown.push(response.to_string());
        response
    }

    /// Gives the project a repository and a connection for it.
    async fn use_repository(&mut self, url: &str, connection: &Value) {
        let change = json!({
            "repositoryUrl": url, "confirmName": "Hosted", "gitConnectionId": connection["id"],
        });
        let method = format!("{PROJECTS}/ChangeRepository");
        let change = self.hosting.world.project_request(change);
        let changed = self.hosting.owner().call_ok(&method, change).await;
        assert_eq!(changed["project"]["gitConnectionId"], connection["id"]);
        self.shown.push(changed.to_string());
    }

    /// Deploys the environment; returns the state of the task.
    async fn deploy(&mut self) -> String {
        let task = self.hosting.run_task("Deploy", &self.environment, json!({})).await;
        self.shown.push(task.to_string());
        self.shown.push(log_of(&self.hosting, &task).await);
        text(&task["state"])
    }

    /// Asserts that secrets are nowhere, and ends.
    async fn finish(mut self, folder: &Path, secrets: &[&str]) {
        let world = &self.hosting.world;
        let log = AuditClient::new(&self.suite, self.hosting.owner(), &world.org).await;
        log.checkpoint(&self.suite).await;
        self.shown.push(json!(log.entries(json!({})).await).to_string());
        for format in [ExportFormat::Json, ExportFormat::Csv, ExportFormat::Ocsf] {
            self.shown.push(String::from_utf8(log.export(format).await).unwrap());
        }
        for method in
            [format!("{CONNECTIONS}/ListGitConnections"), format!("{PROJECTS}/ListProjects")]
        {
            let list = world.org_request(json!({}));
            self.shown.push(world.viewer.call_ok(&method, list).await.to_string());
        }
        self.shown.push(std::fs::read_to_string(folder.join("log")).unwrap());
        for secret in secrets {
            for text in &self.shown {
                assert!(!text.contains(secret), "{text}");
            }
            let tables = tables_with(&self.suite, secret.as_bytes()).await;
            assert_eq!(tables, Vec::<String>::new());
            assert_eq!(files_with(&folder.join("work"), secret), Vec::<String>::new());
            assert_eq!(files_with(self.suite.data_dir(), secret), Vec::<String>::new());
        }
        self.process.kill();
        stop_deployments_of_runner(&folder.join("work"));
        self.suite.finish().await;
    }
}

/// PL-23, PL-28, P-05: a private repository by HTTPS, from the connection to the served page.
#[tokio::test(flavor = "multi_thread")]
async fn a_private_repository_is_deployed_by_https() {
    let folder = tempfile::tempdir().unwrap();
    let mut setup = Setup::new(folder.path()).await;
    setup.repository.write(
        "tenantry.toml",
        "[build]\ncommand = \"env; cat .git/config; git config --list\"\n\
         [run]\ncommand = \"perl server.pl\"\n",
    );
    setup.repository.commit("private");
    let url = setup.https.url();
    let fields = json!({
        "name": "Forge", "testRepositoryUrl": url, "username": "ann", "token": PASSWORD,
    });
    let connection = setup.call("CreateGitConnection", fields).await["gitConnection"].clone();
    setup.use_repository(&url, &connection).await;
    assert_eq!(setup.deploy().await, "TASK_STATE_COMPLETED", "{:?}", setup.shown.last());
    assert!(setup.hosting.page(&setup.environment, "/").await.starts_with("private"));
    let requests = setup.https.requests();
    assert!(requests.iter().any(|it| !it.authorization.is_empty()));
    for request in requests {
        let is_visible = request.command_lines.iter().any(|it| it.contains(PASSWORD));
        assert!(!is_visible && !request.path.contains(PASSWORD), "the process table has the token");
    }
    let basic = BASE64.encode(format!("ann:{PASSWORD}").as_bytes());
    setup.finish(folder.path(), &[PASSWORD, &basic]).await;
}

/// PL-24, PL-28, P-05: a private repository by SSH with a deploy key of the suite. A server with another host
/// key gets no connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_private_repository_is_deployed_by_ssh() {
    let folder = tempfile::tempdir().unwrap();
    let mut setup = Setup::new(folder.path()).await;
    let key = setup.call("CreateDeployKey", json!({})).await["deployKey"].clone();
    setup.ssh.authorize(&text(&key["publicKey"]));
    let url = setup.ssh.url(setup.repository.path());
    let fields = json!({ "name": "By SSH", "testRepositoryUrl": url, "deployKeyId": key["id"] });
    let connection = setup.call("CreateGitConnection", fields).await["gitConnection"].clone();
    setup.use_repository(&url, &connection).await;
    assert_eq!(setup.deploy().await, "TASK_STATE_COMPLETED", "{:?}", setup.shown.last());
    assert!(setup.hosting.page(&setup.environment, "/").await.starts_with("private"));
    let build_log = setup.shown.last().unwrap();
    assert!(!build_log.contains("TENANTRY_SSH"), "{build_log}");

    let host_key = setup.ssh.replace_host_key().await;
    assert_eq!(setup.deploy().await, "TASK_STATE_FAILED");
    let task_log = setup.shown.last().unwrap();
    assert!(task_log.contains("Host key verification failed"), "{task_log}");
    let accept = merge(
        json!({ "gitConnectionId": connection["id"], "updateMask": "hostKey" }),
        json!({ "hostKey": host_key }),
    );
    setup.call("UpdateGitConnection", accept).await;
    setup.repository.commit("second");
    assert_eq!(setup.deploy().await, "TASK_STATE_COMPLETED", "{:?}", setup.shown.last());
    assert!(setup.hosting.page(&setup.environment, "/").await.starts_with("second"));
    setup.finish(folder.path(), &[PRIVATE_KEY, "OPENSSH PRIVATE KEY"]).await;
}
