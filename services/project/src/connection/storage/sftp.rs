//! Client of an SFTP server: the program `ssh` with the subsystem `sftp`.

use std::{net::IpAddr, path::Path, process::Stdio, time::Duration};

use chassis::{
    foreign_text::clean_block,
    git_credential::{GitCredential, HOST_KEY_REFUSED, KNOWN_HOSTS},
};
use project_rules::connection::{
    TestFailure,
    storage::{ObjectPath, SftpLocation},
};
use russh_sftp::{
    client::{SftpSession, error::Error},
    protocol::StatusCode,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
};

use super::client::{Failure, OBJECT_BYTES_MAX};
use crate::connection::probe;

/// Time limit of the connection to a server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Time limit of the end of ssh after a failure.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit of a response of the server, in seconds.
const RESPONSE_TIMEOUT_S: u64 = 30;

/// Maximum length of the error output of ssh in a message, in bytes.
const ERROR_BYTES_MAX: usize = 500;

/// A session of an SFTP server. Ends with the value.
pub(crate) struct Sftp {
    session: SftpSession,
    path: String,
    ssh: Ssh,
}

/// The process ssh, which is killed with its child processes when the value is dropped.
struct Ssh {
    child: Child,
    /// `HOME` of ssh.
    home: TempDir,
}

impl Drop for Ssh {
    fn drop(&mut self) {
        probe::kill_group(self.child.id());
    }
}

impl Sftp {
    /// Connects to an address of the server.
    pub(super) async fn open(
        location: &SftpLocation,
        credential: &GitCredential,
        has_host_key: bool,
        address: IpAddr,
        temporary: &Path,
    ) -> Result<Self, TestFailure> {
        let failure = |text: String| TestFailure::Server(text);
        let home = tempfile::tempdir_in(temporary)
            .map_err(|error| failure(format!("no temporary directory: {error}")))?;
        let mut command = command(location, credential, address, home.path());
        let mut child = command.spawn().map_err(|error| {
            failure(format!(
                "ssh cannot be started ({error}); install openssh-client where the project service runs"
            ))
        })?;
        let pipes = child.stdout.take().zip(child.stdin.take());
        let (stdout, stdin) = pipes.ok_or_else(|| failure("ssh has no pipes".to_owned()))?;
        let mut ssh = Ssh { child, home };
        let connect = SftpSession::new(tokio::io::join(stdout, stdin));
        match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            Ok(Ok(session)) => {
                session.set_timeout(RESPONSE_TIMEOUT_S);
                Ok(Self { session, path: location.path.clone(), ssh })
            }
            Ok(Err(error)) => {
                let text = ssh.error_output().await;
                if has_host_key && text.contains(HOST_KEY_REFUSED) {
                    return Err(TestFailure::HostKeyChanged);
                }
                let text = credential.mask(&text);
                let text = clean_block(text.trim(), ERROR_BYTES_MAX);
                Err(failure(if text.is_empty() { error.to_string() } else { text }))
            }
            Err(_) => {
                Err(failure(format!("no answer within {} seconds", CONNECT_TIMEOUT.as_secs())))
            }
        }
    }

    fn path(&self, key: &str) -> String {
        match self.path.trim_end_matches('/') {
            "" if self.path.starts_with('/') => format!("/{key}"),
            "" => key.to_owned(),
            path => format!("{path}/{key}"),
        }
    }

    /// Creates the directories of an object.
    async fn create_directories(&self, key: &ObjectPath) {
        let name = key.as_str();
        for (end, _) in name.match_indices('/') {
            // Fails for a directory that exists; the write of the object shows other causes.
            let _ = self.session.create_dir(self.path(&name[..end])).await;
        }
    }

    pub(super) async fn put(&self, key: &ObjectPath, data: &[u8]) -> Result<(), Failure> {
        self.create_directories(key).await;
        let path = self.path(key.as_str());
        let mut file = self.session.create(&path).await.map_err(|it| it.to_string())?;
        file.write_all(data).await.map_err(|it| it.to_string())?;
        file.flush().await.map_err(|it| it.to_string())?;
        file.close().await.map_err(|it| it.to_string())
    }

    pub(super) async fn get(&self, key: &ObjectPath) -> Result<Option<Vec<u8>>, Failure> {
        let file = match self.session.open(self.path(key.as_str())).await {
            Ok(file) => file,
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let mut data = vec![];
        let bytes_max = u64::try_from(OBJECT_BYTES_MAX + 1).unwrap_or(u64::MAX);
        file.take(bytes_max).read_to_end(&mut data).await.map_err(|it| it.to_string())?;
        Ok(Some(data))
    }

    pub(super) async fn list(&self, prefix: &ObjectPath) -> Result<Vec<String>, Failure> {
        let directory = prefix.as_str().rsplit_once('/').map_or("", |it| it.0);
        let path = self.path(directory);
        let path = if path.is_empty() { "." } else { &path };
        let entries = self.session.read_dir(path).await.map_err(|it| it.to_string())?;
        let name = |name: String| {
            if directory.is_empty() { name } else { format!("{directory}/{name}") }
        };
        let names = entries.map(|it| name(it.file_name()));
        Ok(names.filter(|it| it.starts_with(prefix.as_str())).take(1_000).collect())
    }

    pub(super) async fn delete(&self, key: &ObjectPath) -> Result<(), Failure> {
        self.session.remove_file(self.path(key.as_str())).await.map_err(|it| it.to_string())
    }

    /// Key of the server, which ssh has stored or compared.
    pub(super) fn host_key(&self) -> String {
        let known_hosts = std::fs::read_to_string(self.ssh.home.path().join(KNOWN_HOSTS));
        known_hosts.ok().and_then(|it| probe::host_key(&it)).unwrap_or_default()
    }
}

impl Ssh {
    /// Error output of a process that ends.
    async fn error_output(&mut self) -> String {
        let Some(mut stderr) = self.child.stderr.take() else { return String::new() };
        let mut text = vec![];
        // A process that does not end is killed.
        let _ = tokio::time::timeout(EXIT_TIMEOUT, stderr.read_to_end(&mut text)).await;
        String::from_utf8_lossy(&text).into_owned()
    }
}

fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::Status(status) if status.status_code == StatusCode::NoSuchFile)
}

fn command(
    location: &SftpLocation,
    credential: &GitCredential,
    address: IpAddr,
    home: &Path,
) -> Command {
    let mut command = Command::new("sh");
    command.env_clear().env("PATH", probe::PATH).env("LANG", "C.UTF-8");
    command.env("HOME", home).env("TMPDIR", home).current_dir(home);
    command.envs(credential.variables());
    let (name, value) = GitCredential::ssh_address(address);
    command.env(name, value);
    // As git does.
    command.args(["-c", "eval \"$GIT_SSH_COMMAND \\\"\\$@\\\"\"", "sh"]);
    let host = location.endpoint.host.trim_matches(['[', ']']);
    command.args(["-p", &location.endpoint.port.to_string(), "-l", &location.username, "-s"]);
    command.args(["--", host, "sftp"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    command
}
