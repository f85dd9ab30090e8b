//! An OpenSSH server for git over SSH and for SFTP, as the account of the test, which opens sessions with its
//! authorized keys only.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::{ReservedPort, eventually};

/// Path of the server: it starts itself again for each connection, and requires an absolute path for that.
const PROGRAM: &str = "/usr/sbin/sshd";

/// A server on a loopback port; stops with the test.
pub struct SshServer {
    folder: TempDir,
    port: ReservedPort,
    account: String,
    child: Option<Child>,
}

impl SshServer {
    /// Starts a server without authorized keys.
    pub async fn start() -> Self {
        let account = Command::new("id").arg("-un").output().expect("id runs").stdout;
        let mut server = Self {
            folder: tempfile::tempdir().expect("a temporary directory"),
            port: ReservedPort::new(),
            account: String::from_utf8_lossy(&account).trim().to_owned(),
            child: None,
        };
        fs::write(server.file("authorized_keys"), "").expect("the file can be written");
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             Subsystem sftp internal-sftp\n",
            server.port.number(),
            server.file("host_key").display(),
            server.file("authorized_keys").display(),
        );
        fs::write(server.file("sshd_config"), config).expect("the file can be written");
        if rustix::process::geteuid().is_root() {
            fs::create_dir_all("/run/sshd").expect("the directory of unprivileged processes");
        }
        server.replace_host_key().await;
        server
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the server again with a new host key; returns the key as `<type> <base64>`.
    pub async fn replace_host_key(&mut self) -> String {
        self.stop();
        for name in ["host_key", "host_key.pub"] {
            let _ = fs::remove_file(self.file(name));
        }
        let mut generate = Command::new("ssh-keygen");
        generate.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(self.file("host_key"));
        assert!(generate.status().expect("ssh-keygen runs").success());
        let log = fs::File::create(self.file("log")).expect("the file can be created");
        let mut server = Command::new(PROGRAM);
        server.args(["-D", "-e", "-f"]).arg(self.file("sshd_config"));
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(server.spawn().expect("sshd starts; `cargo xtask test` installs it"));
        let address = ("127.0.0.1", self.port.number());
        eventually("the start of sshd", async || {
            tokio::net::TcpStream::connect(address).await.ok()
        })
        .await;
        let public = fs::read_to_string(self.file("host_key.pub")).expect("the public host key");
        let mut words = public.split_whitespace();
        format!("{} {}", words.next().unwrap_or_default(), words.next().unwrap_or_default())
    }

    /// Accepts a key: a line of `authorized_keys`.
    pub fn authorize(&self, public_key: &str) {
        fs::write(self.file("authorized_keys"), format!("{public_key}\n"))
            .expect("the file can be written");
    }

    /// URL of a path of this machine.
    pub fn url(&self, path: &Path) -> String {
        format!("ssh://{}@127.0.0.1:{}{}", self.account, self.port.number(), path.display())
    }

    /// Account that the keys open.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// Port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Address and port, for the setting of connection exceptions.
    pub fn exception(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for SshServer {
    fn drop(&mut self) {
        self.stop();
    }
}
