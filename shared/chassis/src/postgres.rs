//! A private PostgreSQL: found on the machine, started as a child, on a Unix socket, never as root.

mod listener;

use std::{
    fs::{self, File},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, postgres::PgConnectOptions};

pub use listener::PublicListener;

/// The oldest major version that the suite's SQL runs on.
const MAJOR_MIN: u32 = 15;

/// Remedy in error messages.
const INSTALL: &str = "install it, for example `apt-get install postgresql`, or name its folder with \
                       --pg-bin, or name a server with --database-url";

/// A private PostgreSQL server.
pub struct Postgres {
    data: PathBuf,
    socket: PathBuf,
    /// The port on this machine, or only a part of the socket's name.
    port: u16,
    listener: Option<PublicListener>,
    child: Option<Child>,
}

/// Port in the name of the socket of a server that listens on nothing else.
const PORT: u16 = 5432;

/// Whether the server may lose the last moments at a power cut. Only tests may.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Every commit is on the disk before it is answered.
    Durable,
    /// For tests.
    Fast,
}

impl Postgres {
    /// Starts the server whose files are below `folder`, creating them on the first start. If a server of
    /// an earlier process still runs there, attaches to it.
    pub async fn start(folder: &Path, bin: Option<&Path>, durability: Durability) -> Result<Self> {
        Self::launch(folder, bin, durability, None).await
    }

    /// The same for databases of environments: another account, a TCP listener, and no end with this process.
    pub async fn start_for_environments(folder: &Path, listener: PublicListener) -> Result<Self> {
        Self::launch(folder, None, Durability::Durable, Some(listener)).await
    }

    async fn launch(
        folder: &Path,
        bin: Option<&Path>,
        durability: Durability,
        listener: Option<PublicListener>,
    ) -> Result<Self> {
        let bin = find(bin)?;
        let accounts = if listener.is_some() { ENVIRONMENT_ACCOUNTS } else { SUITE_ACCOUNTS };
        let owner = owner(&accounts)?;
        let data = folder.join("postgres");
        let socket = socket_folder(folder);
        for path in [folder, &socket] {
            fs::create_dir_all(path)
                .with_context(|| format!("cannot create {}", path.display()))?;
        }
        private(&socket, owner)?;
        initialize(&bin, &data, owner)?;
        let port = listener.as_ref().map_or(PORT, |it| it.address.port());
        if let Some(listener) = &listener {
            fs::write(data.join("pg_hba.conf"), listener.rules())
                .context("cannot write who may connect")?;
        }
        let mut server = Self { data, socket, port, listener, child: None };
        server.check_version(&bin)?;
        // Until a killed server's process is collected and its children end, its files count as held.
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            if !server.runs() {
                server.child = Some(server.spawn(&bin, owner, durability)?);
            }
            match server.wait().await {
                Ok(()) => return Ok(server),
                Err(_) if server.is_held() && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether what PostgreSQL said last is that another one holds the files.
    fn is_held(&self) -> bool {
        let reason = last_line(&self.log());
        ["already exists", "still in use"].iter().any(|it| reason.contains(it))
    }

    /// How to connect.
    pub fn options(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(&self.socket)
            .port(self.port)
            .username("tenantry")
            .database("tenantry")
            .disable_statement_logging()
    }

    /// What the server says.
    pub fn log(&self) -> PathBuf {
        self.socket.join("postgres.log")
    }

    /// Stops the server, at once but cleanly.
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

    /// The process that serves these files, if any.
    fn pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        Pid::from_raw(text.lines().next()?.trim().parse().ok()?)
    }

    /// Whether the process of the pid file lives, and is a PostgreSQL of these files.
    fn runs(&self) -> bool {
        let Some(pid) = self.pid() else { return false };
        let folder = fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero()));
        folder.is_ok_and(|it| fs::canonicalize(&self.data).is_ok_and(|data| it == data))
    }

    fn check_version(&self, bin: &Path) -> Result<()> {
        let have = fs::read_to_string(self.data.join("PG_VERSION"));
        let have = have.with_context(|| {
            format!("{} is damaged: it has no PG_VERSION; restore a backup", self.data.display())
        })?;
        let program = major(bin)?;
        ensure!(
            have.trim() == program.to_string(),
            "the data in {} was written by PostgreSQL {}, but {} is PostgreSQL {program}; name the old one \
             with --pg-bin, or move the data with `pg_dump --no-owner --no-privileges` and psql",
            self.data.display(),
            have.trim(),
            bin.display()
        );
        Ok(())
    }

    fn spawn(
        &self,
        bin: &Path,
        owner: Option<(u32, u32)>,
        durability: Durability,
    ) -> Result<Child> {
        let log =
            File::options().create(true).append(true).open(self.socket.join("postgres.log"))?;
        let mut command = Command::new(bin.join("postgres"));
        command.arg("-D").arg(&self.data).arg("-k").arg(&self.socket);
        command.arg("-p").arg(self.port.to_string());
        let address = self.listener.as_ref().map(|it| it.address.ip().to_string());
        let listens = format!("listen_addresses={}", address.unwrap_or_default());
        let mut settings = vec![listens.as_str(), "max_connections=120", "shared_buffers=64MB"];
        settings.push("log_line_prefix=%m [%p] %d ");
        settings.extend(self.listener.iter().flat_map(|_| PublicListener::SETTINGS));
        if durability == Durability::Fast {
            settings.extend(["fsync=off", "synchronous_commit=off", "full_page_writes=off"]);
            settings.push("max_connections=500");
        }
        for setting in settings {
            command.arg("-c").arg(setting);
        }
        // A group of its own: Ctrl-C is for us, and we stop it when we have drained.
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        as_owner(&mut command, owner)
            .spawn()
            .with_context(|| format!("cannot start {}", bin.display()))
    }

    /// Waits until it serves and has our database.
    async fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let admin = self.options().database("postgres");
        loop {
            match PgConnection::connect_with(&admin).await {
                Ok(mut connection) => {
                    // A start that was killed may still be at it: wait for its end.
                    connection.execute("select pg_advisory_lock(1)").await?;
                    let exists = "select 1 from pg_database where datname = 'tenantry'";
                    if connection.fetch_optional(exists).await?.is_none() {
                        connection.execute("create database tenantry").await?;
                    }
                    return Ok(());
                }
                Err(error) => {
                    // Ours may have lost against one that an earlier process was just starting.
                    let ended =
                        self.child.as_mut().is_none_or(|it| !matches!(it.try_wait(), Ok(None)));
                    if ended {
                        self.child = None;
                    }
                    let gone = ended && !self.runs();
                    if gone || Instant::now() > deadline {
                        let log = self.socket.join("postgres.log");
                        let reason = last_line(&log);
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

/// A program of PostgreSQL, like `pg_dump`.
pub fn program(name: &str) -> Result<PathBuf> {
    Ok(find(None)?.join(name))
}

/// The folder with the programs.
fn find(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = named {
        let found = path.join("postgres").exists() && path.join("initdb").exists();
        ensure!(found, "{} holds no postgres and initdb; {INSTALL}", path.display());
        return Ok(path.to_owned());
    }
    let mut candidates = vec![];
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        candidates.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    if let Ok(entries) = fs::read_dir("/usr/lib/postgresql") {
        let mut installed: Vec<_> = entries.flatten().map(|it| it.path().join("bin")).collect();
        installed.sort();
        candidates.extend(installed.into_iter().rev());
    }
    let usual = ["/usr/bin", "/usr/local/bin", "/usr/local/pgsql/bin", "/opt/homebrew/bin"];
    candidates.extend(usual.iter().map(PathBuf::from));
    let found = candidates.into_iter().find(|it| {
        it.join("postgres").exists()
            && it.join("initdb").exists()
            && major(it).is_ok_and(|it| it >= MAJOR_MIN)
    });
    found.with_context(|| {
        format!("there is no PostgreSQL {MAJOR_MIN} or newer on this machine: {INSTALL}")
    })
}

fn major(bin: &Path) -> Result<u32> {
    let output = Command::new(bin.join("postgres")).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = text.split_whitespace().nth(2).and_then(|it| it.split('.').next()?.parse().ok());
    number.with_context(|| format!("{} does not tell its version: {text}", bin.display()))
}

/// Accounts of the suite's own server, by preference.
const SUITE_ACCOUNTS: [&str; 2] = ["postgres", "nobody"];

/// Accounts of the server of environments, by preference; none of them owns the suite's files.
const ENVIRONMENT_ACCOUNTS: [&str; 2] = ["tenantry-databases", "nobody"];

/// The account that the server runs as: not root, which PostgreSQL refuses.
fn owner(names: &[&str]) -> Result<Option<(u32, u32)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let accounts = fs::read_to_string("/etc/passwd")?;
    let account = |name: &str| {
        let line = accounts.lines().find(|it| it.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    let found = names.iter().find_map(|it| account(it));
    let missing =
        || format!("PostgreSQL refuses root, and there is no account {}", names.join(" or "));
    Ok(Some(found.with_context(missing)?))
}

fn as_owner(command: &mut Command, owner: Option<(u32, u32)>) -> &mut Command {
    if let Some((uid, gid)) = owner {
        command.uid(uid).gid(gid);
    }
    command.current_dir("/")
}

/// A folder that only the server's account enters.
fn private(path: &Path, owner: Option<(u32, u32)>) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    if let Some((uid, gid)) = owner {
        chown(path, Some(uid), Some(gid))?;
    }
    Ok(())
}

/// Creates the files of the server, whole or not at all.
fn initialize(bin: &Path, data: &Path, owner: Option<(u32, u32)>) -> Result<()> {
    if data.exists() {
        return Ok(());
    }
    reachable(data.parent().unwrap_or(data), owner)?;
    remove_parts(data);
    // A name of its own: the initdb of an earlier start that was killed may still be at work on its part.
    let part = data.with_extension(format!("part-{}", crate::id::new().simple()));
    fs::create_dir(&part).with_context(|| format!("cannot create {}", part.display()))?;
    private(&part, owner)?;
    let mut command = Command::new(bin.join("initdb"));
    command.args([
        "--username=tenantry",
        "--auth=trust",
        "--encoding=UTF8",
        "--locale=C",
        "--no-sync",
    ]);
    let output = as_owner(command.arg("-D").arg(&part), owner).output()?;
    ensure!(
        output.status.success(),
        "initdb failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    fs::rename(&part, data).with_context(|| format!("cannot create {}", data.display()))
}

/// Removes what earlier starts left unfinished; what cannot go yet goes next time.
fn remove_parts(data: &Path) {
    let entries =
        data.parent().and_then(|it| fs::read_dir(it).ok()).into_iter().flatten().flatten();
    for entry in entries.filter(|it| it.file_name().to_string_lossy().starts_with("postgres.part-"))
    {
        let _ = fs::remove_dir_all(entry.path());
    }
}

/// The server's account must be able to walk to its files.
fn reachable(folder: &Path, owner: Option<(u32, u32)>) -> Result<()> {
    let Some((uid, gid)) = owner else { return Ok(()) };
    for step in fs::canonicalize(folder)?.ancestors() {
        let it = fs::metadata(step)?;
        let enters = match () {
            () if it.uid() == uid => 0o100,
            () if it.gid() == gid => 0o010,
            () => 0o001,
        };
        ensure!(
            it.mode() & enters != 0,
            "the account that runs PostgreSQL (uid {uid}) may not enter {}; choose another --data-dir, or \
             `chmod o+x {}`",
            step.display(),
            step.display()
        );
    }
    Ok(())
}

/// Where the socket lies; its path must fit into 107 bytes.
fn socket_folder(folder: &Path) -> PathBuf {
    let near = folder.join("run");
    if near.as_os_str().len() < 90 {
        return near;
    }
    let hash = data_encoding::HEXLOWER
        .encode(&crate::key::hash(folder.as_os_str().as_encoded_bytes())[..8]);
    std::env::temp_dir().join(format!("tenantry-{hash}"))
}

fn last_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines()
        .rfind(|it| it.contains("FATAL") || it.contains("PANIC"))
        .unwrap_or("no reason given")
        .to_owned()
}
