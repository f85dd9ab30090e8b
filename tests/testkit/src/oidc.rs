//! An `OpenID` provider: `oidc-provider-mock` of the Python package index as a process.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::eventually;

/// An `OpenID` provider; stops with the test.
pub struct OidcProvider {
    port: u16,
    child: Child,
}

impl OidcProvider {
    /// Starts a provider with users, each given by its claims as JSON. With the port of a stopped provider,
    /// the new one has the same issuer and other keys.
    pub async fn start(port: Option<u16>, users: &[String]) -> Self {
        let free = || std::net::TcpListener::bind("127.0.0.1:0")?.local_addr().map(|it| it.port());
        let port = port.unwrap_or_else(|| free().expect("an unused port"));
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", folder()).env("PYTHONWARNINGS", "ignore");
        command.args(["-m", "oidc_provider_mock", "--port", &port.to_string()]);
        for claims in users {
            command.args(["--user-claims", claims]);
        }
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let provider = Self { port, child: child.expect("python3 starts") };
        let connect = || tokio::net::TcpStream::connect(("127.0.0.1", port));
        eventually("the OpenID provider", async || connect().await.ok()).await;
        provider
    }

    /// Issuer of its tokens.
    pub fn issuer(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Stops the provider; returns its port.
    pub fn stop(self) -> u16 {
        self.port
    }
}

impl Drop for OidcProvider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Folder of the Python packages, installed by `cargo xtask test`.
fn folder() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the checkout");
    let folder = root.join(".tools/oidc");
    assert!(folder.exists(), "there is no OpenID provider; run `cargo xtask test`");
    folder
}
