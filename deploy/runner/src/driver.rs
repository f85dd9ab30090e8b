//! Runs environments as processes of this machine: checks the branch out, starts the `web` command of its
//! Procfile in a process group of its own, waits until it answers HTTP, and only then stops the old one.

mod account;
mod old;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use api::project::Lease;
use tokio::{
    fs,
    process::{Child, Command},
    sync::mpsc::Sender,
};

use crate::{
    http::get_status,
    work::{Deployed, Progress},
};
use account::Account;
use old::Process;

/// Names the process that an environment runs.
const SERVING: &str = "process";

/// Names the process that is to take its place.
const STARTING: &str = "starting";

/// How long a process may take until it serves.
const START_MAX: Duration = Duration::from_secs(60);

/// How long fetching may take.
const FETCH_MAX: Duration = Duration::from_secs(300);

/// The environments that run on this machine.
pub(crate) struct Processes {
    folder: PathBuf,
    account: Option<Account>,
}

impl Processes {
    pub(crate) fn new(folder: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&folder)?;
        // Local repositories belong to whoever made them, which git distrusts.
        std::fs::write(folder.join("gitconfig"), "[safe]\n\tdirectory = *\n")?;
        let account = Account::unprivileged()?;
        Ok(Self { folder, account })
    }

    /// Puts the leased branch in place of what the environment runs.
    pub(crate) async fn deploy(&self, lease: &Lease, report: Sender<Progress>) -> Result<Deployed> {
        // The id is a UUID of the project service, so it is one step of a path.
        let home = self.folder.join(&lease.environment_id);
        let checkout = home.join(&lease.task_id);
        say(
            &report,
            10,
            "checkout",
            format!("fetching {} of {}", lease.branch, lease.repository_url),
        )
        .await;
        self.prepare(&home, &checkout).await?;
        let commit = self.fetch(lease, &checkout).await?;
        say(&report, 40, "start", format!("commit {commit}")).await;
        let command = web_command(&checkout).await?;
        let address = free_address()?;
        let mut child = self.start(&checkout, &command, address)?;
        say(&report, 60, "health", format!("started `{command}` on {address}")).await;
        // Before anything else can go wrong: a runner that is killed from here on leaves no stray behind.
        let new = child.id().and_then(Process::of).context("the command ended at once")?;
        fs::write(home.join(STARTING), new.to_string()).await?;
        if let Err(error) = healthy(&mut child, address).await {
            new.stop().await;
            return Err(error.context(last_lines(&home.join("log")).await));
        }
        self.replace(&home, &checkout).await?;
        say(&report, 90, "done", format!("serving on http://{address}")).await;
        Ok(Deployed { commit, url: format!("http://{address}") })
    }

    /// Ends what the environment runs, and what it was starting.
    pub(crate) async fn stop(&self, lease: &Lease, report: Sender<Progress>) -> Result<Deployed> {
        let home = self.folder.join(&lease.environment_id);
        say(&report, 50, "stop", "stopping".to_owned()).await;
        for record in [home.join(STARTING), home.join(SERVING)] {
            if let Some(process) = recorded(&record).await {
                process.stop().await;
                fs::remove_file(&record).await?;
            }
        }
        Ok(Deployed { commit: String::new(), url: String::new() })
    }

    async fn prepare(&self, home: &Path, checkout: &Path) -> Result<()> {
        // A runner that went silent may have left half a checkout, and what it was starting.
        if let Some(stray) = recorded(&home.join(STARTING)).await {
            stray.stop().await;
        }
        if fs::try_exists(checkout).await? {
            fs::remove_dir_all(checkout).await?;
        }
        fs::create_dir_all(checkout).await?;
        if let Some(account) = &self.account {
            account.own(home)?;
            account.own(checkout)?;
        }
        Ok(())
    }

    async fn fetch(&self, lease: &Lease, checkout: &Path) -> Result<String> {
        let mut clone = self.command("git", checkout);
        clone.args([
            "clone",
            "--quiet",
            "--depth=1",
            "--single-branch",
            "--branch",
            &lease.branch,
            "--",
        ]);
        clone.args([&lease.repository_url, "."]);
        output(clone).await.context("git could not fetch the branch")?;
        let mut head = self.command("git", checkout);
        head.args(["rev-parse", "HEAD"]);
        Ok(output(head).await.context("git could not name the commit")?.trim().to_owned())
    }

    fn start(&self, checkout: &Path, command: &str, address: SocketAddr) -> Result<Child> {
        let log = checkout.parent().unwrap_or(checkout).join("log");
        let log = std::fs::File::create(log).context("the log cannot be written")?;
        let mut shell = self.command("sh", checkout);
        shell.args(["-c", &format!("ulimit -n 1024; exec {command}")]);
        shell.env("PORT", address.port().to_string()).env("HOST", address.ip().to_string());
        shell.process_group(0).stdout(log.try_clone()?).stderr(log);
        shell.spawn().context("the command cannot be started")
    }

    /// From here on the new process is the environment; the old one ends.
    async fn replace(&self, home: &Path, checkout: &Path) -> Result<()> {
        let old = recorded(&home.join(SERVING)).await;
        fs::rename(home.join(STARTING), home.join(SERVING)).await?;
        if let Some(old) = old {
            old.stop().await;
        }
        let mut entries = fs::read_dir(home).await?;
        while let Some(entry) = entries.next_entry().await? {
            if entry.file_type().await?.is_dir() && entry.path() != checkout {
                fs::remove_dir_all(entry.path()).await?;
            }
        }
        Ok(())
    }

    /// A command that knows nothing of this process and, if we are root, is not root.
    fn command(&self, program: &str, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().current_dir(folder).env("HOME", folder).stdin(Stdio::null());
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
        command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_CONFIG_NOSYSTEM", "1");
        command.env("GIT_CONFIG_GLOBAL", self.folder.join("gitconfig"));
        if let Some(account) = &self.account {
            account.run(&mut command);
        }
        command
    }
}

/// The process that a record names.
async fn recorded(record: &Path) -> Option<Process> {
    fs::read_to_string(record).await.ok()?.parse().ok()
}

async fn say(report: &Sender<Progress>, percent: i32, step: &'static str, line: String) {
    // Nobody listens only when the lease is lost, and then this work ends, too.
    let _ = report.send(Progress { percent, step, lines: vec![line] }).await;
}

async fn output(mut command: Command) -> Result<String> {
    let output = tokio::time::timeout(FETCH_MAX, command.kill_on_drop(true).output()).await;
    let output = output.context("it took too long")??;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command that serves: `web: <command>` in the Procfile.
async fn web_command(checkout: &Path) -> Result<String> {
    let text = fs::read_to_string(checkout.join("Procfile")).await;
    let text = text.context(
        "the branch has no Procfile; add one with a line `web: <command that serves on $PORT>`",
    )?;
    let command = text.lines().find_map(|it| it.strip_prefix("web:"));
    Ok(command.context("the Procfile has no line that begins with `web:`")?.trim().to_owned())
}

/// An address that nobody listens on.
fn free_address() -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}

/// Waits until the process answers, and not with an error of its own.
async fn healthy(child: &mut Child, address: SocketAddr) -> Result<()> {
    let deadline = Instant::now() + START_MAX;
    loop {
        if let Some(status) = child.try_wait()? {
            bail!("the command ended before it served ({status})");
        }
        match get_status(address).await {
            Some(status) if status < 500 => return Ok(()),
            status if Instant::now() > deadline => match status {
                Some(status) => bail!("it answers with HTTP status {status}"),
                None => bail!("it does not answer on {address}; does it listen on $PORT?"),
            },
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).await.unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(5).collect();
    let lines: Vec<_> = lines.into_iter().rev().collect();
    if lines.is_empty() {
        "the command said nothing".to_owned()
    } else {
        format!("it said: {}", lines.join(" | "))
    }
}
