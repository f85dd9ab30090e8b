//! Client of Caddy's administration API on a Unix socket. Each request has a connection of its own, and is of
//! HTTP/1.0, which has no `Host` header: versions of Caddy differ in the hosts that they accept.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use primitives::foreign_text::clean_line;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::{sleep, timeout},
};

/// Time limit of a request.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Longest wait for the end of a killed process.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Maximum length of Caddy's answer in an error message, in bytes.
const ANSWER_BYTES_MAX: usize = 1_000;

/// The administration API of one Caddy process.
pub(super) struct Admin {
    socket: PathBuf,
}

impl Admin {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Returns true if a process listens on the socket.
    pub(super) async fn is_listening(&self) -> bool {
        UnixStream::connect(&self.socket).await.is_ok()
    }

    /// Returns true if a configuration is loaded. Waits while one is being loaded.
    pub(super) async fn is_configured(&self) -> bool {
        let answer = self.request("GET", "/config/", &[]).await;
        answer.is_ok_and(|it| it.trim() != "null")
    }

    /// Replaces the configuration, or fails and keeps the previous one. A process that does not answer is
    /// killed, so that it can be started again.
    pub(super) async fn load(&self, configuration: &Value) -> Result<()> {
        let body = serde_json::to_vec(configuration)?;
        let loaded = timeout(TIMEOUT, self.request("POST", "/load", &body)).await;
        if loaded.is_err() {
            self.kill().await;
        }
        loaded.context("Caddy does not answer")?.context("Caddy refuses its configuration")?;
        Ok(())
    }

    /// Ends the process after its open requests.
    pub(super) async fn stop(&self) -> Result<()> {
        let stopped = timeout(TIMEOUT, self.request("POST", "/stop", &[])).await;
        stopped.context("Caddy does not answer")?.context("Caddy does not stop")?;
        Ok(())
    }

    /// Kills the process that listens on the socket, and waits for its end; does nothing if there is none.
    pub(super) async fn kill(&self) {
        let Ok(stream) = UnixStream::connect(&self.socket).await else { return };
        let pid = stream.peer_cred().ok().and_then(|it| it.pid()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::KILL);
            let ended = async {
                while self.is_listening().await {
                    sleep(POLL_INTERVAL).await;
                }
            };
            let _ = timeout(KILL_TIMEOUT, ended).await;
        }
    }

    async fn request(&self, method: &str, path: &str, body: &[u8]) -> Result<String> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        let head = format!(
            "{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body).await?;
        let mut answer = vec![];
        stream.read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").context("the answer is incomplete")?;
        let status = head.split(' ').nth(1).unwrap_or_default();
        ensure!(status == "200", "HTTP status {status}: {}", clean_line(body, ANSWER_BYTES_MAX));
        Ok(body.to_owned())
    }
}
