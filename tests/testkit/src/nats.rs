//! A real `nats-server` with JetStream on a free port.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::ReservedPort;

/// A NATS server; stops with the test.
pub struct Nats {
    child: Child,
    folder: TempDir,
    port: ReservedPort,
    /// True if the server has the users and permissions of `deploy/nats.conf`.
    with_permissions: bool,
}

impl Nats {
    /// Starts a server.
    pub fn start() -> Self {
        Self::launch(false)
    }

    /// Starts a server with the permissions of `deploy/nats.conf`: each service has a user of its name.
    pub fn start_with_permissions() -> Self {
        Self::launch(true)
    }

    fn launch(with_permissions: bool) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        if with_permissions {
            write_permissions(folder.path());
        }
        let port = ReservedPort::new();
        let child = spawn(&folder, &port, with_permissions);
        Self { child, folder, port, with_permissions }
    }

    /// URL of the server.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port.number())
    }

    /// URL with the credentials of a service, for a server with permissions.
    pub fn url_as(&self, service: &str) -> String {
        format!("nats://{service}:{service}@127.0.0.1:{}", self.port.number())
    }

    /// Kills the server without a shutdown.
    pub fn kill(&mut self) {
        self.child.kill().expect("the server can be killed");
        self.child.wait().expect("the server ends");
    }

    /// Starts the server again on the same port with its stored data.
    pub fn restart(&mut self) {
        self.child = spawn(&self.folder, &self.port, self.with_permissions);
    }

    /// Deletes the data of all streams, which a power failure can cause with NATS's default settings. The
    /// server must not be running.
    pub fn delete_data(&self) {
        std::fs::remove_dir_all(self.folder.path().join("jetstream"))
            .expect("the store is deleted");
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes `nats.conf` with the permissions of `deploy/nats.conf` to the folder of a server; returns its path.
pub(crate) fn write_permissions(folder: &Path) -> PathBuf {
    let text = include_str!("../../../deploy/nats.conf");
    // The port is given on the command line; older servers reject `sync_interval: always`.
    let text = text.replace("port: 4222\n", "").replace(", sync_interval: always", "");
    let text = text.replace("/data", &folder.to_string_lossy());
    let file = folder.join("nats.conf");
    std::fs::write(&file, text).expect("the file can be written");
    file
}

/// Starts a server, and waits until it accepts connections.
fn spawn(folder: &TempDir, port: &ReservedPort, with_permissions: bool) -> Child {
    let path = folder.path().to_string_lossy().into_owned();
    let mut command = Command::new("nats-server");
    if with_permissions {
        command.args(["-c", &folder.path().join("nats.conf").to_string_lossy()]);
    } else {
        command.args(["-js", "-sd", &path]);
    }
    let mut child = command
        .args(["-a", "127.0.0.1", "-p", &port.number().to_string(), "--ports_file_dir", &path])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nats-server is installed; `cargo xtask test` installs it");
    let ports = folder.path().join(format!("nats-server_{}.ports", child.id()));
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        let text = std::fs::read_to_string(&ports).unwrap_or_default();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        if json["nats"][0].is_string() {
            return child;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill().and_then(|()| child.wait());
    panic!("nats-server wrote no file with its ports");
}
