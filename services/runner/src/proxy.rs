//! The proxy of a server, Caddy: requests for the host names of environments go to the programs that serve
//! them. The runner starts Caddy and loads its whole configuration, which it computes from its records,
//! through Caddy's administration API. Caddy goes on when the runner ends, and the next runner takes it over.
//!
//! | concept | file |
//! |---|---|
//! | command line | `arguments` |
//! | configuration of Caddy | `configuration` |
//! | pages instead of a program | `page` |
//! | client of the administration API | `admin` |
//! | certificates that Caddy presents | `presented_certificate` |
//! | numbers and durations of requests | `access_log` |
//! | files with the addresses of programs | `upstream` |

pub(crate) mod access_log;
mod admin;
pub(crate) mod arguments;
mod configuration;
mod page;
pub(crate) mod presented_certificate;
mod upstream;

use std::{
    fs::{File, Permissions},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use primitives::foreign_text::clean_line;
use serde_json::Value;
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::{certificate::CertificateStore, settings::ProxySettings};
use access_log::AccessLog;
use admin::Admin;
use configuration::{Site, Version};
use upstream::UpstreamFiles;

pub(crate) use configuration::{PathUpstream, Route, Target, Upstreams};
pub(crate) use page::Unavailable;

/// Time limit for the start of Caddy, and for its end.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Pause after a failed start, in which no other one is tried.
const START_PAUSE: Duration = Duration::from_secs(5);

/// Directories in which Caddy is found by its name.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Maximum length of an error of Caddy in an error message, in bytes.
const ERROR_BYTES_MAX: usize = 500;

/// Kernel setting: when a listening socket is closed, connections that it has not accepted are given to
/// another socket of the port. With each configuration Caddy opens new ones (`SO_REUSEPORT`).
const MIGRATE_CONNECTIONS: &str = "/proc/sys/net/ipv4/tcp_migrate_req";

/// Kernel setting: 1 lets a new connection have the port of an ended one after a second (2, the default of
/// the kernel: of loopback only). Otherwise an environment gets less than 500 requests a second where each
/// has a connection of its own, whose port is not used again for a minute if Caddy closes it first.
const REUSE_PORTS: &str = "/proc/sys/net/ipv4/tcp_tw_reuse";

/// Privileges of Caddy where the runner is root: an account of its own that may listen on ports below 1024,
/// and nothing else (setpriv(1)).
const PRIVILEGES: [&str; 5] = [
    "--clear-groups",
    "--inh-caps=-all,+net_bind_service",
    "--ambient-caps=-all,+net_bind_service",
    "--bounding-set=-all,+net_bind_service",
    "--no-new-privs",
];

/// A Caddy process and its configuration.
pub(crate) struct Caddy {
    site: Site,
    program: PathBuf,
    /// Directory of the runner with the error output of Caddy.
    folder: PathBuf,
    /// Account of Caddy; `None`: that of the runner, which is not root.
    account: Option<u32>,
    admin: Admin,
    /// The process, if this runner has started it.
    child: Option<Child>,
    /// Certificates that the runner has requested; `None`: Caddy requests them itself, or has none.
    certificates: Option<Arc<CertificateStore>>,
    /// Files with the addresses of programs; `None`: they are in the configuration.
    upstream_files: Option<UpstreamFiles>,
    /// Configuration that was loaded last.
    loaded: Option<Value>,
    /// Time before which no start is tried.
    paused_until: Instant,
}

impl Caddy {
    /// Prepares the directory of Caddy. A running Caddy of another version is stopped; [`Self::apply`] starts
    /// this one.
    pub(crate) async fn new(
        settings: &ProxySettings,
        folder: PathBuf,
        account: Option<u32>,
        certificates: Option<Arc<CertificateStore>>,
    ) -> Result<Self> {
        let text = version(&settings.caddy).await?;
        let Some(version) = Version::parse(&text) else {
            bail!("unknown version of Caddy: {text}")
        };
        if !version.delays_stream_close() {
            tracing::warn!(
                version = text,
                "Caddy before 2.7 ends all web sockets whenever an environment is started, stopped or \
                 deployed, and before 2.8 opens a connection to a program for each request; install a newer \
                 one"
            );
        }
        let upstreams = folder.join("upstreams");
        let upstreams = (version.reads_files() && upstream::is_valid_in_placeholder(&upstreams))
            .then_some(upstreams);
        let site = Site {
            settings: settings.clone(),
            version,
            admin_socket: folder.join("run/admin.sock"),
            data: folder.join("data"),
            upstreams,
        };
        if account.is_some() {
            // Waiting connections go on with the next configuration instead of being reset (Linux 5.14).
            // Fails in containers whose kernel settings are read-only.
            let _ = std::fs::write(MIGRATE_CONNECTIONS, "1");
            let reuse = std::fs::read_to_string(REUSE_PORTS).unwrap_or_default();
            if reuse.trim() == "2" {
                let _ = std::fs::write(REUSE_PORTS, "1");
            }
        }
        create_directory(&folder, 0o711, None)?;
        create_directory(&folder.join("run"), 0o700, account)?;
        create_directory(&site.data, 0o700, account)?;
        if let Some(upstreams) = &site.upstreams {
            create_directory(upstreams, 0o755, None)?;
        }
        let admin = Admin::new(site.admin_socket.clone());
        let version_file = folder.join("version");
        let has_changed = std::fs::read_to_string(&version_file).unwrap_or_default() != text;
        if has_changed && admin.is_listening().await {
            tracing::info!(version = text, "replacing the running Caddy by another version");
            admin.stop().await?;
            let deadline = Instant::now() + START_TIMEOUT;
            while admin.is_listening().await && Instant::now() < deadline {
                sleep(POLL_INTERVAL).await;
            }
            admin.kill().await;
        }
        std::fs::write(&version_file, text)?;
        Ok(Self {
            upstream_files: site.upstreams.clone().map(UpstreamFiles::new),
            site,
            program: settings.caddy.clone(),
            folder,
            account,
            admin,
            child: None,
            certificates,
            loaded: None,
            paused_until: Instant::now(),
        })
    }

    /// Makes Caddy serve these routes, and starts it if it does not run. Open connections of earlier routes
    /// go on.
    pub(crate) async fn apply(&mut self, routes: &[Route]) -> Result<()> {
        let certificates = self.certificates.as_ref().map(|it| it.all()).unwrap_or_default();
        let configuration = configuration::compute(&self.site, routes, &certificates);
        if let Some(files) = &mut self.upstream_files {
            files.write(routes)?;
        }
        let has_changed = self.loaded.as_ref() != Some(&configuration);
        let mut is_running = self.admin.is_listening().await;
        if is_running && has_changed {
            let loaded = self.admin.load(&configuration).await;
            // `load` kills a process that does not answer.
            is_running = self.admin.is_listening().await;
            if is_running {
                loaded?;
            }
        }
        if !is_running {
            self.loaded = None;
            ensure!(Instant::now() >= self.paused_until, "the last start of Caddy has failed");
            self.paused_until = Instant::now() + START_PAUSE;
            self.start(&configuration).await.context("Caddy does not start")?;
            self.paused_until = Instant::now();
        }
        self.loaded = Some(configuration);
        if has_changed && let Some(files) = &mut self.upstream_files {
            files.remove_others(routes)?;
        }
        Ok(())
    }

    /// Returns a reader of the access log.
    pub(crate) fn access_log(&self) -> AccessLog {
        AccessLog::new(self.site.access_log())
    }

    /// Starts Caddy, and waits until it serves the configuration. It is read from standard input, so that no
    /// file of it can be replaced.
    async fn start(&mut self, configuration: &Value) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            // Has usually ended; this also removes it from the process table.
            child.kill().await?;
        }
        let _ = std::fs::remove_file(&self.site.admin_socket);
        let errors = self.folder.join("stderr");
        let mut child = self.command(&errors)?.spawn().context("it is not executable")?;
        let mut input = child.stdin.take().context("the standard input is missing")?;
        input.write_all(&serde_json::to_vec(configuration)?).await?;
        drop(input);
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(status) = child.try_wait()? {
                bail!("{status}: {}", last_line(&errors));
            }
            if self.admin.is_configured().await {
                tracing::info!(pid = child.id(), "Caddy started");
                self.child = Some(child);
                return Ok(());
            }
            if Instant::now() > deadline {
                child.kill().await?;
                bail!("no response within {} s: {}", START_TIMEOUT.as_secs(), last_line(&errors));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    fn command(&self, errors: &Path) -> Result<Command> {
        let mut command = match self.account {
            Some(account) => {
                let mut command = Command::new("setpriv");
                command.args([format!("--reuid={account}"), format!("--regid={account}")]);
                command.args(PRIVILEGES).arg("--").arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command.args(["run", "--config", "-"]).current_dir("/").env_clear();
        command.env("PATH", PATH);
        for variable in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
            command.env(variable, &self.site.data);
        }
        let errors = File::create(errors).context("its error output cannot be written")?;
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(errors);
        // Not ended by signals of the terminal: programs are served when the runner has ended.
        command.process_group(0);
        Ok(command)
    }
}

/// Returns the output of `caddy version`.
async fn version(program: &Path) -> Result<String> {
    let mut command = Command::new(program);
    command.arg("version").env("PATH", PATH).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(START_TIMEOUT, command.output()).await.context("no response")?;
    let output = output.with_context(|| {
        format!(
            "{} cannot be run; --apps-domain requires Caddy: install it, or set --caddy to its path",
            program.display()
        )
    })?;
    ensure!(output.status.success(), "`{} version` fails: {}", program.display(), output.status);
    Ok(clean_line(&String::from_utf8_lossy(&output.stdout), ERROR_BYTES_MAX))
}

fn create_directory(path: &Path, mode: u32, owner: Option<u32>) -> Result<()> {
    let create = || {
        std::fs::create_dir_all(path)?;
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
        chown(path, owner, owner)
    };
    create().with_context(|| format!("cannot create {}", path.display()))
}

/// Returns the last line of a file.
fn last_line(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().rev().find(|it| !it.trim().is_empty());
    clean_line(line.unwrap_or("no error output"), ERROR_BYTES_MAX)
}
