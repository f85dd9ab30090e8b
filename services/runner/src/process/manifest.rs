//! Manifest of a repository, `tenantry.toml` or `Procfile`: commands that build and run its code, and the
//! health check.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{
    directory::EnvironmentDir,
    text_file::{Encoding, TextFile},
};

/// Commands and health check of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Shell command of the build, run in the directory of the code.
    pub(super) build: Option<String>,
    /// Shell command of the program, which listens on `$HOST:$PORT`.
    pub(super) run: String,
    /// Path of the health check: a status below 500 means healthy.
    pub(super) health: String,
    /// Time within which the program must be healthy after its start; `None`: the default.
    timeout: Option<Duration>,
    /// Notices about the file, for the task's log.
    pub(super) notices: Vec<String>,
}

/// Contents of `tenantry.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlManifest {
    build: Option<Build>,
    run: Run,
    health: Option<Health>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Build {
    command: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    command: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Health {
    path: Option<String>,
    timeout_s: Option<u64>,
}

/// Maximum of `health.timeout_s`, in seconds.
const TIMEOUT_S_MAX: u64 = 900;

/// Maximum size of a manifest, in bytes.
const MANIFEST_BYTES_MAX: u64 = 64 << 10;

/// Number of processes of a Procfile that are not run that a notice names.
const NAMED_PROCESSES_MAX: usize = 5;

/// Maximum length of the name of a process in such a notice, in bytes.
const PROCESS_NAME_BYTES_MAX: usize = 63;

/// Maximum length of a command, in bytes.
const COMMAND_BYTES_MAX: usize = 16 << 10;

impl Manifest {
    /// Reads the manifest from the code of a deployment.
    pub(super) fn read(environment: &EnvironmentDir, release: &str) -> Result<Self> {
        let read = |name| environment.read_release_file(release, name, MANIFEST_BYTES_MAX);
        if let Some(file) = read("tenantry.toml")? {
            let manifest = Self::from_toml(&file.text).context("tenantry.toml is not valid")?;
            return Ok(manifest.with_notice(&file));
        }
        let file = read("Procfile")?.context(
            "the branch has neither a tenantry.toml nor a Procfile; add a Procfile with the line \
             `web: <command that listens on $PORT>`",
        )?;
        Ok(Self::from_procfile(&file.text)?.with_notice(&file))
    }

    /// Sets the notice about an encoding that other programs may not read.
    fn with_notice(mut self, file: &TextFile) -> Self {
        let notice = match file.encoding {
            Encoding::Utf8 => None,
            Encoding::Utf8WithMark => {
                Some("the manifest begins with a byte order mark, which is ignored")
            }
            Encoding::Utf16 => Some("the manifest is UTF-16 text; save it as UTF-8"),
        };
        self.notices.extend(notice.map(str::to_owned));
        self
    }

    fn from_toml(text: &str) -> Result<Self> {
        let manifest: TomlManifest = toml::from_str(text)?;
        let health = manifest.health.as_ref();
        let path = health.and_then(|it| it.path.clone()).unwrap_or_else(|| "/".to_owned());
        let is_valid = path.starts_with('/') && path.bytes().all(|it| it.is_ascii_graphic());
        anyhow::ensure!(
            is_valid,
            "health.path must begin with / and consist of visible ASCII characters"
        );
        let timeout = health.and_then(|it| it.timeout_s).map(|it| it.clamp(1, TIMEOUT_S_MAX));
        Self {
            build: manifest.build.map(|it| it.command),
            run: manifest.run.command,
            health: path,
            timeout: timeout.map(Duration::from_secs),
            notices: vec![],
        }
        .validate()
    }

    fn from_procfile(text: &str) -> Result<Self> {
        let command_of = |process: &str| {
            let mut lines = text.lines().filter_map(|it| it.split_once(':'));
            let line = lines.find(|(name, _)| name.trim() == process);
            line.map(|(_, command)| command.trim().to_owned())
        };
        let run = command_of("web").filter(|it| !it.is_empty());
        Self {
            build: command_of("release"),
            run: run.context("the Procfile must have a line `web: <command>`")?,
            health: "/".to_owned(),
            timeout: None,
            notices: unused_processes_notice(text).into_iter().collect(),
        }
        .validate()
    }

    /// Fails if a command cannot be a program's argument: those cannot contain NUL bytes, and the kernel
    /// limits their length.
    fn validate(self) -> Result<Self> {
        for command in self.build.iter().chain([&self.run]) {
            anyhow::ensure!(!command.contains('\0'), "commands must not contain NUL bytes");
            anyhow::ensure!(
                command.len() <= COMMAND_BYTES_MAX,
                "commands must not be longer than {COMMAND_BYTES_MAX} bytes; move the command to a script"
            );
        }
        Ok(self)
    }

    /// Returns the time within which the program must be healthy after its start.
    pub(super) fn start_timeout(&self, default: Duration) -> Duration {
        self.timeout.unwrap_or(default)
    }
}

/// Returns the notice about the processes of a Procfile that are not run; `None` if all are.
fn unused_processes_notice(text: &str) -> Option<String> {
    let is_name = |it: &str| {
        (1..=PROCESS_NAME_BYTES_MAX).contains(&it.len())
            && it.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_".contains(&it))
    };
    let names = text.lines().filter_map(|it| Some(it.split_once(':')?.0.trim()));
    let unused = names.filter(|it| is_name(it) && !["web", "release"].contains(it));
    let unused: Vec<_> = unused.take(NAMED_PROCESSES_MAX).collect();
    (!unused.is_empty()).then(|| {
        format!(
            "not run: {} of the Procfile, because an environment has one command, `web`; start other \
             processes in it: `web: <other command> & exec <web command>`",
            unused.join(", ")
        )
    })
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

    #[test]
    fn both_formats_define_build_run_and_health_check() {
        let text = "[build]\ncommand = \"make\"\n[run]\ncommand = \"./serve\"\n\
                    [health]\npath = \"/up\"\ntimeout_s = 5\n";
        let manifest = Manifest::from_toml(text).unwrap();
        assert_eq!(manifest.build.as_deref(), Some("make"));
        assert_eq!(manifest.run, "./serve");
        assert_eq!(manifest.health, "/up");
        assert_eq!(manifest.start_timeout(DEFAULT_TIMEOUT), Duration::from_secs(5));
        let with_unknown_field = Manifest::from_toml("[run]\ncommand = \"x\"\ntypo = 1\n");
        assert!(with_unknown_field.is_err());
        let without_run = Manifest::from_toml("[health]\npath = \"/\"\n");
        assert!(without_run.is_err());
        let manifest = Manifest::from_procfile("release: make\nweb: ./serve $PORT\n").unwrap();
        assert_eq!(manifest.build.as_deref(), Some("make"));
        assert_eq!(manifest.run, "./serve $PORT");
        assert_eq!(manifest.start_timeout(DEFAULT_TIMEOUT), DEFAULT_TIMEOUT);
        assert!(manifest.notices.is_empty(), "{:?}", manifest.notices);
        let without_web = Manifest::from_procfile("worker: x\n");
        assert!(without_web.is_err());
    }

    #[test]
    fn processes_that_are_not_run_are_named() {
        let text = "# https://example.com\nweb: ./serve\nworker: ./work a:b\n\n\
                    urgent-worker: x\nrelease: make\n";
        let manifest = Manifest::from_procfile(text).unwrap();
        assert_eq!(manifest.run, "./serve");
        let [notice] = &*manifest.notices else { panic!("{:?}", manifest.notices) };
        assert!(notice.starts_with("not run: worker, urgent-worker of the Procfile"), "{notice}");
        let many = (0..20).map(|it| format!("w{it}: x\n")).collect::<String>() + "web: x";
        let notice = &Manifest::from_procfile(&many).unwrap().notices[0];
        assert!(notice.contains("w4") && !notice.contains("w5"), "{notice}");
    }
}
