//! The manifest of a repository, `tenantry.toml` or `Procfile`: how its code is built, run and checked.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::directory::EnvironmentDir;

/// Commands and health check of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Shell command of the build, in the folder of the code.
    pub(super) build: Option<String>,
    /// Shell command of the program, which serves on `$PORT`.
    pub(super) run: String,
    /// The path that answers with a status below 500 when the program serves.
    pub(super) health: String,
    /// Time until then.
    timeout: Option<Duration>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
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

/// Seconds that a start may take.
const TIMEOUT_S_MAX: u64 = 900;

/// Bytes of a manifest.
const MANIFEST_BYTES_MAX: u64 = 64 << 10;

/// Bytes of a command.
const COMMAND_BYTES_MAX: usize = 16 << 10;

impl Manifest {
    /// The manifest in the code of a deployment.
    pub(super) fn read(environment: &EnvironmentDir, release: &str) -> Result<Self> {
        let read = |name| environment.read_release_file(release, name, MANIFEST_BYTES_MAX);
        if let Some(text) = read("tenantry.toml")? {
            return Self::from_toml(&text).context("tenantry.toml is not valid");
        }
        let text = read("Procfile")?.context(
            "the branch has neither a tenantry.toml nor a Procfile; add a Procfile with a line \
             `web: <command that serves on $PORT>`",
        )?;
        Self::from_procfile(&text)
    }

    fn from_toml(text: &str) -> Result<Self> {
        let file: File = toml::from_str(text)?;
        let health = file.health.as_ref();
        let path = health.and_then(|it| it.path.clone()).unwrap_or_else(|| "/".to_owned());
        let plain = path.starts_with('/') && path.bytes().all(|it| it.is_ascii_graphic());
        anyhow::ensure!(
            plain,
            "health.path must begin with / and consist of visible ASCII characters"
        );
        let timeout = health.and_then(|it| it.timeout_s).map(|it| it.clamp(1, TIMEOUT_S_MAX));
        Self {
            build: file.build.map(|it| it.command),
            run: file.run.command,
            health: path,
            timeout: timeout.map(Duration::from_secs),
        }
        .checked()
    }

    fn from_procfile(text: &str) -> Result<Self> {
        let line = |name: &str| {
            let mut lines = text.lines().filter_map(|it| it.split_once(':'));
            lines.find(|it| it.0.trim() == name).map(|it| it.1.trim().to_owned())
        };
        let run = line("web").filter(|it| !it.is_empty());
        Self {
            build: line("release"),
            run: run.context("the Procfile has no line that begins with `web:`")?,
            health: "/".to_owned(),
            timeout: None,
        }
        .checked()
    }

    /// Commands become arguments of programs, which hold no zero byte and have a bounded length.
    fn checked(self) -> Result<Self> {
        for command in self.build.iter().chain([&self.run]) {
            anyhow::ensure!(!command.contains('\0'), "a command holds a zero byte");
            anyhow::ensure!(
                command.len() <= COMMAND_BYTES_MAX,
                "a command is longer than {COMMAND_BYTES_MAX} bytes; put it into a script"
            );
        }
        Ok(self)
    }

    /// Time for its program until it serves.
    pub(super) fn start_timeout(&self, default: Duration) -> Duration {
        self.timeout.unwrap_or(default)
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_says_how_it_is_built_run_and_asked() {
        let text = "[build]\ncommand = \"make\"\n[run]\ncommand = \"./serve\"\n\
                    [health]\npath = \"/up\"\ntimeout_s = 5\n";
        let it = Manifest::from_toml(text).unwrap();
        assert_eq!(
            (it.build.as_deref(), it.run.as_str(), it.health.as_str()),
            (Some("make"), "./serve", "/up")
        );
        assert_eq!(it.start_timeout(START), Duration::from_secs(5));
        assert!(Manifest::from_toml("[run]\ncommand = \"x\"\ntypo = 1\n").is_err());
        assert!(
            Manifest::from_toml("[health]\npath = \"/\"\n").is_err(),
            "there is nothing to run"
        );
        let it = Manifest::from_procfile("release: make\nweb: ./serve $PORT\n").unwrap();
        assert_eq!((it.build.as_deref(), it.run.as_str()), (Some("make"), "./serve $PORT"));
        assert_eq!(it.start_timeout(START), START);
        assert!(Manifest::from_procfile("worker: x\n").is_err());
    }

    const START: Duration = Duration::from_secs(60);
}
