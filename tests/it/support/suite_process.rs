//! The all-in-one program `tenantry` as a process with a private PostgreSQL, which a test kills and starts
//! again on the same data.

use std::{os::unix::fs::PermissionsExt, path::Path};

use sqlx::{PgPool, postgres::PgConnectOptions};
use tempfile::TempDir;
use tenantry::{client::Client, demo::Mailbox};
use testkit::{Person, Process, ReservedPort, eventually, stop_deployments};

/// The process, its data directory and its address, which stays the same after a restart.
pub(crate) struct SuiteProcess {
    /// Client without a credential.
    pub(crate) client: Client,
    pub(crate) mailbox: Mailbox,
    folder: TempDir,
    port: ReservedPort,
    /// Further flags of the program.
    flags: Vec<String>,
    /// True if it runs as `nobody`.
    is_unprivileged: bool,
    /// `None` between [`Self::kill`] and [`Self::start_again`].
    process: Option<Process>,
}

impl SuiteProcess {
    pub(crate) async fn start() -> Self {
        Self::start_with(vec![]).await
    }

    /// Starts the suite with further flags and waits until it answers.
    pub(crate) async fn start_with(flags: Vec<String>) -> Self {
        Self::start_as(flags, false).await
    }

    /// Starts the suite as an account without privileges.
    pub(crate) async fn start_unprivileged() -> Self {
        Self::start_as(vec![], true).await
    }

    async fn start_as(flags: Vec<String>, is_unprivileged: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let port = ReservedPort::new();
        let launched = launch(folder.path(), port.number(), &flags, is_unprivileged).await;
        let (process, client) = launched;
        let mailbox = Mailbox::Folders(vec![folder.path().join("mail")]);
        Self { client, mailbox, folder, port, flags, is_unprivileged, process: Some(process) }
    }

    /// Kills the process (`SIGKILL`). Its PostgreSQL keeps running.
    pub(crate) fn kill(&mut self) {
        self.process.take().expect("the process is running").kill();
    }

    /// Starts a killed suite on the same data and waits until it answers.
    pub(crate) async fn start_again(&mut self) {
        let (folder, port) = (self.folder.path(), self.port.number());
        let (process, client) = launch(folder, port, &self.flags, self.is_unprivileged).await;
        self.process = Some(process);
        self.client = client;
    }

    /// Adds a flag, which the next start has.
    pub(crate) fn add_flag(&mut self, flag: &str) {
        self.flags.push(flag.to_owned());
    }

    /// Starts a killed suite on the same data, which must refuse to start; returns its error.
    pub(crate) fn start_error(&self) -> String {
        let arguments = arguments(self.folder.path(), self.port.number(), &self.flags);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let ended = Process::run("tenantry", &arguments);
        assert!(!ended.status.success(), "the suite starts");
        String::from_utf8_lossy(&ended.stderr).into_owned()
    }

    /// Runs `tenantry audit fsck --release` on the data of a killed suite; returns its output.
    pub(crate) fn release_quarantines(&self) -> String {
        let mut arguments = vec!["audit".to_owned(), "fsck".to_owned(), "--release".to_owned()];
        arguments.extend(self::arguments(self.folder.path(), self.port.number(), &self.flags));
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let ended = Process::run("tenantry", &arguments);
        let text = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert!(ended.status.success(), "{text}{}", String::from_utf8_lossy(&ended.stderr));
        text
    }

    pub(crate) fn process(&self) -> &Process {
        self.process.as_ref().expect("the process is running")
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number())
    }

    pub(crate) fn data_dir(&self) -> &Path {
        self.folder.path()
    }

    /// Log of the process since its first start.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Connects to the private PostgreSQL.
    pub(crate) async fn pool(&self) -> PgPool {
        let socket = self.folder.path().join("run");
        let options = PgConnectOptions::new_without_pgpass().socket(socket);
        PgPool::connect_with(options.username("tenantry").database("tenantry")).await.unwrap()
    }

    /// Registers a person and signs them in.
    pub(crate) async fn person(&self, email: &str) -> Person {
        Person::join(&self.client, &self.mailbox, email).await.unwrap()
    }

    /// Stops the suite, which must drain, and the programs that it has deployed.
    pub(crate) fn stop(mut self) {
        let process = self.process.take().expect("the process is running");
        assert!(process.stop(), "the suite does not drain\n{}", self.log());
        stop_deployments(self.folder.path());
    }
}

/// Arguments of the process.
fn arguments(folder: &Path, port: u16, flags: &[String]) -> Vec<String> {
    let mut arguments = vec![
        format!("--data-dir={}", folder.display()),
        format!("--listen=127.0.0.1:{port}"),
        "--created-orgs-max=100000".to_owned(),
        "--sign-ins-max=0".to_owned(),
        "--local-repositories=true".to_owned(),
    ];
    arguments.extend_from_slice(flags);
    arguments
}

/// Starts the process; returns it with a client.
async fn launch(
    folder: &Path,
    port: u16,
    flags: &[String],
    is_unprivileged: bool,
) -> (Process, Client) {
    let (arguments, log) = (arguments(folder, port, flags), folder.join("log"));
    let process = if is_unprivileged {
        Process::start_unprivileged("tenantry", &arguments, folder, &log)
    } else {
        Process::start("tenantry", &arguments, &log)
    };
    let url = format!("http://127.0.0.1:{port}");
    let client =
        eventually("the start of the suite", async || Client::connect(&url, None).await.ok()).await;
    (process, client)
}
