//! A private PostgreSQL server: an installed PostgreSQL, started as a child process on a Unix socket, never
//! as root.

mod account;
mod listener;
mod programs;

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{
    ConnectOptions, Connection, Executor, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};

use self::account::{
    ENVIRONMENT_ACCOUNTS, Owner, SUITE_ACCOUNTS, check_access, owner, require_owner,
    restrict_to_owner, run_as,
};
use self::programs::{find_programs, major_version};
pub use self::{listener::PublicListener, programs::program};

/// A private PostgreSQL server.
pub struct Postgres {
    /// Data directory (`PGDATA`).
    data: PathBuf,
    /// Directory of the socket and the log.
    socket_dir: PathBuf,
    /// TCP port; without a listener only a part of the socket's name.
    port: u16,
    listener: Option<PublicListener>,
    child: Option<Child>,
    /// Length of the log, in bytes, before this process started the server.
    old_log_len: u64,
}

/// Port in the socket's name of a server without a listener.
const PORT: u16 = 5432;

/// Durability of commits at a power failure.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A commit returns after its data is on the disk.
    Durable,
    /// A power failure can lose or damage data. For tests.
    Fast,
}

impl Postgres {
    /// Starts the server with its files in `directory`, which are created on the first start. If an earlier
    /// process has started the server and it is still running, returns a handle of the running server.
    pub async fn start(
        directory: &Path,
        bin: Option<&Path>,
        durability: Durability,
    ) -> Result<Self> {
        Self::launch(directory, bin, durability, None).await
    }

    /// Starts the server for databases of environments, with another system account and a TCP listener. The
    /// server keeps running when this process ends.
    pub async fn start_for_environments(
        directory: &Path,
        listener: PublicListener,
    ) -> Result<Self> {
        Self::launch(directory, None, Durability::Durable, Some(listener)).await
    }

    async fn launch(
        directory: &Path,
        bin: Option<&Path>,
        durability: Durability,
        listener: Option<PublicListener>,
    ) -> Result<Self> {
        let bin = find_programs(bin)?;
        let accounts = if listener.is_some() { ENVIRONMENT_ACCOUNTS } else { SUITE_ACCOUNTS };
        let owner = owner(&accounts)?;
        let data = directory.join("postgres");
        let socket_dir = socket_dir(directory);
        for path in [directory, &socket_dir] {
            fs::create_dir_all(path)
                .with_context(|| format!("cannot create {}", path.display()))?;
        }
        initialize(&bin, &data, owner)?;
        let port = listener.as_ref().map_or(PORT, |it| it.address.port());
        let mut server = Self { data, socket_dir, port, listener, child: None, old_log_len: 0 };
        server.check_version(&bin)?;
        require_owner(&server.data, owner)?;
        restrict_to_owner(&server.socket_dir, owner)?;
        if let Some(listener) = &server.listener {
            fs::write(server.data.join("pg_hba.conf"), listener.pg_hba())
                .context("cannot write pg_hba.conf")?;
        }
        // After a server was killed, its files stay locked until its child processes have ended.
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            if !server.is_running() {
                server.old_log_len = fs::metadata(server.log()).map_or(0, |it| it.len());
                server.child = Some(server.spawn(&bin, owner, durability)?);
            }
            match server.wait_until_ready().await {
                Ok(()) => return Ok(server),
                Err(_) if server.is_locked_by_another() && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns true if the last error in the log is that another server has locked the files.
    fn is_locked_by_another(&self) -> bool {
        let reason = last_error(&self.log(), self.old_log_len);
        ["already exists", "still in use"].iter().any(|it| reason.contains(it))
    }

    /// Connection options for the database `tenantry`, as its owner.
    pub fn options(&self) -> PgConnectOptions {
        // Every value that could come from an environment variable (`PGSSLMODE`, `PGPASSWORD`, …) is set.
        PgConnectOptions::new_without_pgpass()
            .ssl_mode(PgSslMode::Disable)
            .password("")
            .socket(&self.socket_dir)
            .port(self.port)
            .username("tenantry")
            .database("tenantry")
            .disable_statement_logging()
    }

    /// Path of the server's log.
    pub fn log(&self) -> PathBuf {
        self.socket_dir.join("postgres.log")
    }

    /// Stops the server (fast shutdown) and waits for its end, at most 15 s.
    pub fn stop(mut self) {
        if let Some(pid) = self.pid() {
            let _ = kill_process(pid, Signal::INT);
        }
        let deadline = Instant::now() + Duration::from_secs(15);
        while Instant::now() < deadline && self.data.join("postmaster.pid").exists() {
            std::thread::sleep(Duration::from_millis(10));
        }
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
    }

    /// Returns the process id in the pid file, if there is one.
    fn pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        Pid::from_raw(text.lines().next()?.trim().parse().ok()?)
    }

    /// Returns true if the process of the pid file is running and its working directory is this data
    /// directory; another process can have the pid after a restart of the machine.
    fn is_running(&self) -> bool {
        let Some(pid) = self.pid() else { return false };
        let working_dir = fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero()));
        working_dir.is_ok_and(|it| fs::canonicalize(&self.data).is_ok_and(|data| it == data))
    }

    /// Fails if the files were written by another major version than that of the programs.
    fn check_version(&self, bin: &Path) -> Result<()> {
        let written_by = fs::read_to_string(self.data.join("PG_VERSION"));
        let written_by = written_by.with_context(|| {
            format!("{} is damaged: it has no PG_VERSION; restore a backup", self.data.display())
        })?;
        let program = major_version(bin)?;
        ensure!(
            written_by.trim() == program.to_string(),
            "the data in {} was written by PostgreSQL {}, but {} is PostgreSQL {program}; set --pg-bin to \
             the old version, or move the data with `pg_dump --no-owner --no-privileges` and psql",
            self.data.display(),
            written_by.trim(),
            bin.display()
        );
        Ok(())
    }

    fn spawn(&self, bin: &Path, owner: Option<Owner>, durability: Durability) -> Result<Child> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = Command::new(bin.join("postgres"));
        command.arg("-D").arg(&self.data).arg("-k").arg(&self.socket_dir);
        command.arg("-p").arg(self.port.to_string());
        let address = self.listener.as_ref().map(|it| it.address.ip().to_string());
        let listen_addresses = format!("listen_addresses={}", address.unwrap_or_default());
        let mut settings =
            vec![listen_addresses.as_str(), "max_connections=120", "shared_buffers=64MB"];
        settings.push("log_line_prefix=%m [%p] %d ");
        settings.extend(self.listener.iter().flat_map(|_| PublicListener::SETTINGS));
        if durability == Durability::Fast {
            settings.extend(["fsync=off", "synchronous_commit=off", "full_page_writes=off"]);
            settings.push("max_connections=500");
        }
        for setting in settings {
            command.arg("-c").arg(setting);
        }
        // In its own process group, so that Ctrl-C does not stop it before this process has drained.
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        run_as(&mut command, owner)
            .spawn()
            .with_context(|| format!("cannot start {}", bin.display()))
    }

    /// Waits until the server accepts connections, and creates the database if it is missing.
    async fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let admin = self.options().database("postgres");
        loop {
            match PgConnection::connect_with(&admin).await {
                Ok(mut connection) => {
                    // The session of an earlier start that was killed may still be creating the database; the
                    // lock waits for its end.
                    connection.execute("select pg_advisory_lock(1)").await?;
                    let exists = "select 1 from pg_database where datname = 'tenantry'";
                    if connection.fetch_optional(exists).await?.is_none() {
                        connection.execute("create database tenantry").await?;
                    }
                    return Ok(());
                }
                Err(error) => {
                    // The child ends if the server of an earlier process was just starting. Then that server
                    // is used.
                    let ended =
                        self.child.as_mut().is_none_or(|it| !matches!(it.try_wait(), Ok(None)));
                    if ended {
                        self.child = None;
                    }
                    let has_failed = ended && !self.is_running();
                    if has_failed || Instant::now() > deadline {
                        let log = self.log();
                        let reason = last_error(&log, self.old_log_len);
                        bail!(
                            "PostgreSQL does not start ({reason}); see {} ({error})",
                            log.display()
                        );
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Creates the data directory with `initdb`, unless it exists. It is created under a temporary name and then
/// renamed, so that a data directory is always complete.
fn initialize(bin: &Path, data: &Path, owner: Option<Owner>) -> Result<()> {
    if data.exists() {
        return Ok(());
    }
    check_access(data.parent().unwrap_or(data), owner)?;
    remove_temporary_dirs(data);
    // A unique name: the initdb of an earlier start that was killed may still be writing.
    let temporary = data.with_extension(format!("part-{}", primitives::id::new().simple()));
    fs::create_dir(&temporary).with_context(|| format!("cannot create {}", temporary.display()))?;
    restrict_to_owner(&temporary, owner)?;
    let mut command = Command::new(bin.join("initdb"));
    command.args([
        "--username=tenantry",
        "--auth=trust",
        "--encoding=UTF8",
        "--locale=C",
        "--no-sync",
    ]);
    let output = run_as(command.arg("-D").arg(&temporary), owner).output()?;
    ensure!(
        output.status.success(),
        "initdb failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    fs::rename(&temporary, data).with_context(|| format!("cannot create {}", data.display()))
}

/// Removes the temporary directories of earlier starts. Errors are ignored; the next start tries again.
fn remove_temporary_dirs(data: &Path) {
    let entries =
        data.parent().and_then(|it| fs::read_dir(it).ok()).into_iter().flatten().flatten();
    for entry in entries.filter(|it| it.file_name().to_string_lossy().starts_with("postgres.part-"))
    {
        let _ = fs::remove_dir_all(entry.path());
    }
}

/// Returns the directory of the socket: below `directory`, or in the temporary directory if the path of the
/// socket would exceed its limit of 107 bytes.
fn socket_dir(directory: &Path) -> PathBuf {
    let inside = directory.join("run");
    // The name of the socket, `.s.PGSQL.5432`, is added to the path.
    if inside.as_os_str().len() < 90 {
        return inside;
    }
    let hash = data_encoding::HEXLOWER
        .encode(&primitives::key::hash(directory.as_os_str().as_encoded_bytes())[..8]);
    std::env::temp_dir().join(format!("tenantry-{hash}"))
}

/// Returns the last FATAL or PANIC message of a log after its first `skipped` bytes, or a text that there is
/// none.
fn last_error(log: &Path, skipped: u64) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let new = usize::try_from(skipped).ok().and_then(|it| bytes.get(it..)).unwrap_or_default();
    String::from_utf8_lossy(new)
        .lines()
        .rfind(|it| it.contains("FATAL") || it.contains("PANIC"))
        .unwrap_or("its log has no error")
        .to_owned()
}
