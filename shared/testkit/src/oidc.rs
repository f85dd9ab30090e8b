//! A real `OpenID` provider, `oidc-provider-mock` from the Python package index, as a process.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::eventually;

/// A provider; it ends with the test.
pub struct Oidc {
    port: u16,
    child: Child,
}

impl Oidc {
    /// Starts a provider that knows people, by their claims as JSON. With a port, in place of one that ended:
    /// with new keys.
    pub async fn start(port: Option<u16>, people: &[String]) -> Self {
        let free = || std::net::TcpListener::bind("127.0.0.1:0")?.local_addr().map(|it| it.port());
        let port = port.unwrap_or_else(|| free().expect("a port"));
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", folder()).env("PYTHONWARNINGS", "ignore");
        command.args(["-m", "oidc_provider_mock", "--port", &port.to_string()]);
        for claims in people {
            command.args(["--user-claims", claims]);
        }
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let it = Self { port, child: child.expect("python3 starts") };
        let there = || tokio::net::TcpStream::connect(("127.0.0.1", port));
        eventually("the OpenID provider", async || there().await.ok()).await;
        it
    }

    /// How its tokens name it.
    pub fn issuer(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Ends it; answers its port.
    pub fn stop(self) -> u16 {
        self.port
    }
}

impl Drop for Oidc {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where `cargo xtask test` has installed it.
fn folder() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the checkout");
    let folder = root.join(".tools/oidc");
    assert!(folder.exists(), "there is no OpenID provider; run `cargo xtask test`");
    folder
}
