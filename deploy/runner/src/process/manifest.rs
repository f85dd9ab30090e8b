//! Which commands a repository asks for: `tenantry.toml`, or a `Procfile`.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use serde::Deserialize;

/// What a repository asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Makes the program, in the folder of its code. None: nothing is to be made.
    pub(super) build: Option<String>,
    /// Serves on `$PORT`.
    pub(super) run: String,
    /// The path that answers when the program serves.
    pub(super) health: String,
    /// How long it may take until then.
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

/// A program that takes longer than this will not come.
const TIMEOUT_MAX: u64 = 900;

impl Manifest {
    /// What the code in a folder asks for.
    pub(super) async fn read(folder: &Path) -> Result<Self> {
        if let Ok(text) = tokio::fs::read_to_string(folder.join("tenantry.toml")).await {
            return Self::of_toml(&text).context("tenantry.toml is not as it should be");
        }
        let text = tokio::fs::read_to_string(folder.join("Procfile")).await;
        Self::of_procfile(&text.context(
            "the branch has neither a tenantry.toml nor a Procfile; add a Procfile with a line \
             `web: <command that serves on $PORT>`",
        )?)
    }

    fn of_toml(text: &str) -> Result<Self> {
        let file: File = toml::from_str(text)?;
        let health = file.health.as_ref();
        let path = health.and_then(|it| it.path.clone()).unwrap_or_else(|| "/".to_owned());
        let plain = path.starts_with('/') && path.bytes().all(|it| it.is_ascii_graphic());
        anyhow::ensure!(plain, "health.path must begin with / and have no blanks");
        let timeout = health.and_then(|it| it.timeout_s).map(|it| it.clamp(1, TIMEOUT_MAX));
        Ok(Self {
            build: file.build.map(|it| it.command),
            run: file.run.command,
            health: path,
            timeout: timeout.map(Duration::from_secs),
        })
    }

    fn of_procfile(text: &str) -> Result<Self> {
        let line = |name: &str| {
            let mut lines = text.lines().filter_map(|it| it.split_once(':'));
            lines.find(|it| it.0.trim() == name).map(|it| it.1.trim().to_owned())
        };
        let run = line("web").filter(|it| !it.is_empty());
        Ok(Self {
            build: line("release"),
            run: run.context("the Procfile has no line that begins with `web:`")?,
            health: "/".to_owned(),
            timeout: None,
        })
    }

    /// How long its program may take until it serves.
    pub(super) fn patience(&self, default: Duration) -> Duration {
        self.timeout.unwrap_or(default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_says_how_it_is_built_run_and_asked() {
        let text = "[build]\ncommand = \"make\"\n[run]\ncommand = \"./serve\"\n\
                    [health]\npath = \"/up\"\ntimeout_s = 5\n";
        let it = Manifest::of_toml(text).unwrap();
        assert_eq!(
            (it.build.as_deref(), it.run.as_str(), it.health.as_str()),
            (Some("make"), "./serve", "/up")
        );
        assert_eq!(it.patience(START), Duration::from_secs(5));
        assert!(Manifest::of_toml("[run]\ncommand = \"x\"\ntypo = 1\n").is_err());
        assert!(Manifest::of_toml("[health]\npath = \"/\"\n").is_err(), "there is nothing to run");
        let it = Manifest::of_procfile("release: make\nweb: ./serve $PORT\n").unwrap();
        assert_eq!((it.build.as_deref(), it.run.as_str()), (Some("make"), "./serve $PORT"));
        assert_eq!(it.patience(START), START);
        assert!(Manifest::of_procfile("worker: x\n").is_err());
    }

    const START: Duration = Duration::from_secs(60);
}
