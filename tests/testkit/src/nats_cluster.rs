//! A cluster of three real `nats-server` nodes with JetStream.

use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::{ReservedPort, eventually, nats::write_permissions};

/// A NATS cluster; stops with the test.
pub struct NatsCluster {
    nodes: Vec<Node>,
    /// True if the nodes have the users and permissions of `deploy/nats.conf`.
    with_permissions: bool,
}

struct Node {
    name: String,
    client_port: ReservedPort,
    cluster_port: ReservedPort,
    folder: TempDir,
    child: Option<Child>,
}

impl NatsCluster {
    /// Starts three nodes, and waits until each one answers requests for JetStream.
    pub async fn start() -> Self {
        Self::launch(false).await
    }

    /// Starts three nodes with the permissions of `deploy/nats.conf`: each service has a user of its name.
    pub async fn start_with_permissions() -> Self {
        Self::launch(true).await
    }

    async fn launch(with_permissions: bool) -> Self {
        let node = |number| Node {
            name: format!("node-{number}"),
            client_port: ReservedPort::new(),
            cluster_port: ReservedPort::new(),
            folder: tempfile::tempdir().expect("a temporary directory"),
            child: None,
        };
        let mut cluster = Self { nodes: (0..3).map(node).collect(), with_permissions };
        for index in 0..cluster.nodes.len() {
            cluster.start_node(index);
        }
        for node in &cluster.nodes {
            let user = cluster.with_permissions.then_some("operator");
            eventually("JetStream of a node", async || {
                let client = options(user).connect(node.url_as(None)).await.ok()?;
                let response = client.request("$JS.API.INFO", "".into()).await.ok()?;
                let info: serde_json::Value = serde_json::from_slice(&response.payload).ok()?;
                info["error"].is_null().then_some(())
            })
            .await;
        }
        cluster
    }

    /// URLs of all nodes, with commas between them.
    pub fn url(&self) -> String {
        self.nodes.iter().map(|it| it.url_as(None)).collect::<Vec<_>>().join(",")
    }

    /// URLs of all nodes with the credentials of a user, for a cluster with permissions.
    pub fn url_as(&self, user: &str) -> String {
        self.nodes.iter().map(|it| it.url_as(Some(user))).collect::<Vec<_>>().join(",")
    }

    /// Connects as the operator, for a cluster with permissions.
    pub async fn connect_as_operator(&self) -> async_nats::Client {
        let urls: Vec<_> = self.nodes.iter().map(|it| it.url_as(None)).collect();
        options(Some("operator")).connect(urls).await.expect("the cluster answers")
    }

    /// Kills the node with a name and deletes its data.
    pub fn destroy(&mut self, name: &str) {
        let node = self.nodes.iter_mut().find(|it| it.name == name).expect("a node of the cluster");
        node.kill();
        std::fs::remove_dir_all(node.folder.path().join("jetstream")).expect("the data is deleted");
    }

    /// Starts the node with a name again.
    pub fn restart(&mut self, name: &str) {
        let index =
            self.nodes.iter().position(|it| it.name == name).expect("a node of the cluster");
        self.start_node(index);
    }

    fn start_node(&mut self, index: usize) {
        let routes: Vec<_> = self.nodes.iter().map(Node::route).collect();
        let node = &mut self.nodes[index];
        let mut command = Command::new("nats-server");
        if self.with_permissions {
            command.arg("-c").arg(write_permissions(node.folder.path()));
        } else {
            command.args(["-js", "-sd"]).arg(node.folder.path());
        }
        let child = command
            .args(["-a", "127.0.0.1", "-p", &node.client_port.number().to_string()])
            .args(["-n", &node.name, "--cluster_name", "test", "--cluster", &node.route()])
            .args(["--routes", &routes.join(",")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        node.child = Some(child.expect("nats-server is installed; `cargo xtask test` installs it"));
    }
}

impl Node {
    /// URL of the node, with the credentials of a user.
    fn url_as(&self, user: Option<&str>) -> String {
        let user = user.map(|it| format!("{it}:{it}@")).unwrap_or_default();
        format!("nats://{user}127.0.0.1:{}", self.client_port.number())
    }

    fn route(&self) -> String {
        format!("nats://127.0.0.1:{}", self.cluster_port.number())
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the node can be killed");
            child.wait().expect("the node ends");
        }
    }
}

/// Returns the options of a connection; the password of a user is their name.
fn options(user: Option<&str>) -> async_nats::ConnectOptions {
    let options = async_nats::ConnectOptions::new();
    match user {
        Some(user) => options.user_and_password(user.to_owned(), user.to_owned()),
        None => options,
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}
