//! A nats-server process with JetStream.

use std::process::{Child, Command, Stdio};

use anyhow::Result;
use tempfile::TempDir;

/// A nats-server that is killed when this is dropped.
pub(crate) struct Nats {
    child: Child,
    pub(crate) port: u16,
    _folder: TempDir,
}

impl Nats {
    /// Starts a server with an empty store, on an unused port.
    pub(crate) fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let store = folder.path().to_string_lossy().into_owned();
        let child = Command::new("nats-server")
            .args(["-js", "-sd", &store, "-a", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { child, port, _folder: folder })
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
