//! A cluster of three real `nats-server` nodes with JetStream.

use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::{ReservedPort, eventually};

/// A NATS cluster; stops with the test.
pub struct NatsCluster {
    nodes: Vec<Node>,
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
        let node = |number| Node {
            name: format!("node-{number}"),
            client_port: ReservedPort::new(),
            cluster_port: ReservedPort::new(),
            folder: tempfile::tempdir().expect("a temporary directory"),
            child: None,
        };
        let mut cluster = Self { nodes: (0..3).map(node).collect() };
        for index in 0..cluster.nodes.len() {
            cluster.start_node(index);
        }
        for node in &cluster.nodes {
            eventually("JetStream of a node", async || {
                let client = async_nats::connect(node.url()).await.ok()?;
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
        self.nodes.iter().map(Node::url).collect::<Vec<_>>().join(",")
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
        let child = Command::new("nats-server")
            .args(["-js", "-a", "127.0.0.1", "-p", &node.client_port.number().to_string()])
            .arg("-sd")
            .arg(node.folder.path())
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
    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.client_port.number())
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

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}
