//! An `OpenID` provider: `oidc-provider-mock` of the Python package index as a process.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::{ReservedPort, eventually};

/// An `OpenID` provider; stops with the test.
pub struct OidcProvider {
    port: ReservedPort,
    users: Vec<String>,
    child: Child,
}

impl OidcProvider {
    /// Starts a provider with users, each given by its claims as JSON.
    pub async fn start(users: Vec<String>) -> Self {
        let port = ReservedPort::new();
        let child = spawn(&port, &users).await;
        Self { port, users, child }
    }

    /// Starts the provider again after a stop: with the same issuer and users, and with other keys.
    pub async fn restart(&mut self) {
        self.child = spawn(&self.port, &self.users).await;
    }

    /// Issuer of its tokens.
    pub fn issuer(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number())
    }

    /// Stops the provider.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for OidcProvider {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts a provider, and waits until it accepts connections.
async fn spawn(port: &ReservedPort, users: &[String]) -> Child {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", folder()).env("PYTHONWARNINGS", "ignore");
    command.args(["-m", "oidc_provider_mock", "--port", &port.number().to_string()]);
    for claims in users {
        command.args(["--user-claims", claims]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().expect("python3 starts");
    let connect = || tokio::net::TcpStream::connect(("127.0.0.1", port.number()));
    eventually("the OpenID provider", async || connect().await.ok()).await;
    child
}

/// Folder of the Python packages, installed by `cargo xtask test`.
fn folder() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the checkout");
    let folder = root.join(".tools/oidc");
    assert!(folder.exists(), "there is no OpenID provider; run `cargo xtask test`");
    folder
}
