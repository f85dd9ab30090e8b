//! How a program is started: as its own account, in its own view of the machine, behind a gate that opens
//! when its limits are set.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result};
use api::project::Lease;
use serde::{Deserialize, Serialize};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
};

use super::{Processes, account::Accounts, home::Home, manifest::Manifest, text};

/// What is to be started, and with what.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Launch {
    pub(super) command: String,
    /// Its working directory.
    pub(super) folder: PathBuf,
    /// The path that answers when it serves.
    pub(super) health: String,
    pub(super) variables: BTreeMap<String, String>,
    pub(super) memory_mb: i32,
    pub(super) cpu_cores: f64,
}

impl Launch {
    /// How a version is started, with the variables and limits of a lease.
    pub(super) fn of(lease: &Lease, home: &Home, release: &str, manifest: &Manifest) -> Self {
        let resources = lease.resources.unwrap_or_default();
        let variables = lease.variables.iter().map(|it| (it.name.clone(), it.value.clone()));
        Self {
            command: manifest.run.clone(),
            folder: home.release(release),
            health: manifest.health.clone(),
            variables: variables.collect(),
            memory_mb: resources.memory_mb,
            cpu_cores: resources.cpu_cores,
        }
    }
}

/// Where commands are looked for.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// Makes a view of the machine in which there is only one environment, then becomes its account. Arguments:
/// the runner's folder, the environment's, the working directory, the account, and the command.
const ENTER: &str = r#"set -e
mount --make-rprivate /
mount --bind "$2" "$2"
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/home
mount --move "$2" /mnt/home
mount -t tmpfs -o mode=755 tmpfs "$1"
mount -t tmpfs -o mode=1777,size=256m tmpfs /tmp
mkdir -p "$2"
mount --move /mnt/home "$2"
umount /mnt
mount -t proc -o hidepid=2 proc /proc
cd "$3"
exec setpriv --reuid="$4" --regid="$4" --clear-groups --no-new-privs --inh-caps=-all -- sh -c "$5"
"#;

/// Becomes another account, no more.
const BECOME: &str = r#"cd "$3"
exec setpriv --reuid="$4" --regid="$4" --clear-groups --no-new-privs --inh-caps=-all -- sh -c "$5"
"#;

/// What keeps environments from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sandbox {
    /// Another account, and a view of the machine of its own.
    View,
    /// Another account.
    Account,
    /// Nothing: this process is not root.
    Nothing,
}

impl Sandbox {
    /// What this machine allows, by trying it.
    pub(super) fn probe(accounts: &Accounts) -> Self {
        if !accounts.are_own() {
            return Self::Nothing;
        }
        let runner = std::env::temp_dir().join(format!("tenantry-probe-{}", std::process::id()));
        let home = runner.join("home");
        if std::fs::create_dir_all(&home).is_err() {
            return Self::Account;
        }
        let script = |sandbox: Self| {
            let (program, arguments) = sandbox.enter(&runner, &home, &home, 65_534, "true");
            let mut command = std::process::Command::new(program);
            command
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command.status().is_ok_and(|it| it.success())
        };
        let found = [Self::View, Self::Account].into_iter().find(|it| script(*it));
        let _ = std::fs::remove_dir_all(&runner);
        found.unwrap_or(Self::Account)
    }

    /// In words.
    pub(super) fn word(self) -> String {
        match self {
            Self::View => {
                "own account; own mount, ipc and uts namespaces: no other environment's files or \
                           processes are seen"
            }
            Self::Account => "own account",
            Self::Nothing => "none: the runner is not root, so all run as its account",
        }
        .to_owned()
    }

    /// The program and the arguments that run a command inside.
    fn enter(
        self,
        runner: &Path,
        home: &Path,
        folder: &Path,
        account: u32,
        command: &str,
    ) -> (&'static str, Vec<String>) {
        let values =
            [text(runner), text(home), text(folder), account.to_string(), command.to_owned()];
        let with = |script: &str| {
            let head = ["-c".to_owned(), script.to_owned(), "sh".to_owned()];
            head.into_iter().chain(values).collect::<Vec<_>>()
        };
        match self {
            Self::View => {
                let head = ["--mount", "--ipc", "--uts", "--", "sh"].map(str::to_owned);
                ("unshare", head.into_iter().chain(with(ENTER)).collect())
            }
            Self::Account => ("sh", with(BECOME)),
            Self::Nothing => {
                ("sh", vec!["-c".to_owned(), format!("cd '{}' && {{ {command}\n}}", text(folder))])
            }
        }
    }
}

/// Lets a program begin that waits at its gate.
pub(super) async fn open(child: &mut Child) -> Result<()> {
    let mut gate = child.stdin.take().context("the program has no gate")?;
    gate.write_all(b"\n").await.context("the program ended at its gate")
}

impl Processes {
    /// A command inside an environment, as its account. It waits until its gate is opened.
    pub(super) fn inside(
        &self,
        home: &Home,
        folder: &Path,
        command: &str,
        limits: &str,
    ) -> Command {
        let account = self.accounts.get(home).unwrap_or(0);
        let command = format!("{limits}{command}");
        let (program, arguments) =
            self.sandbox.enter(&self.settings.folder, home.path(), folder, account, &command);
        let mut gated = Command::new("sh");
        gated.args(["-c", r#"read -r _; exec "$@" < /dev/null"#, "sh", program]).args(arguments);
        gated.env_clear().env("PATH", PATH).env("HOME", home.data()).env("DATA_DIR", home.data());
        gated.env("LANG", "C.UTF-8").current_dir("/").process_group(0).stdin(Stdio::piped());
        gated
    }

    /// Starts a program; what it says goes to the environment's log.
    pub(super) fn start_program(
        &self,
        home: &Home,
        launch: &Launch,
        address: SocketAddr,
    ) -> Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(home.log());
        let log = log.context("the log cannot be written")?;
        let mut command =
            self.inside(home, &launch.folder, &launch.command, &self.limits.commands(launch));
        command.envs(&launch.variables);
        command.env("PORT", address.port().to_string()).env("HOST", address.ip().to_string());
        command.stdout(log.try_clone()?).stderr(log);
        command.spawn().context("the command cannot be started")
    }

    /// A command of the runner itself, as the environment's account, that knows nothing of this process.
    pub(super) fn plain(&self, home: &Home, program: &str, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().current_dir(folder).env("HOME", home.data()).stdin(Stdio::null());
        command.env("PATH", PATH).env("GIT_TERMINAL_PROMPT", "0").env("GIT_CONFIG_NOSYSTEM", "1");
        command.env("GIT_CONFIG_GLOBAL", self.settings.folder.join("gitconfig"));
        if let Some(account) = self.accounts.get(home) {
            command.uid(account).gid(account);
        }
        command
    }
}
