//! Manifest of a repository, `tenantry.toml` or `Procfile`: commands that build and run its code, its image
//! or its recipe, and the health check. With a `Dockerfile` or a recipe of its project a server with a
//! container engine requires none.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{
    directory::EnvironmentDir,
    text_file::{Encoding, TextFile},
};
use crate::{
    docker::dockerfile::check_dockerfile,
    recipe::{RecipeRef, Recipes},
};

/// Origin of the program of a version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Program {
    /// The code, which the commands of the manifest build and run.
    #[default]
    Code,
    /// An image that is built from the `Dockerfile`.
    Dockerfile,
    /// An image of a registry.
    Image(String),
    /// The code, which the commands of a recipe build and run.
    Recipe(RecipeRef),
}

/// Ways to run programs on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Technology {
    Sandbox,
    Containers,
}

/// Facts on which a manifest depends, beside the files of its version.
#[derive(Clone, Debug)]
pub(super) struct ManifestContext<'a> {
    pub(super) technology: Technology,
    pub(super) recipes: &'a Recipes,
    /// Recipe of a version whose files name no program.
    pub(super) default_recipe: Option<RecipeRef>,
}

/// Commands and health check of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Shell command of the build, run in the directory of the code.
    pub(super) build: Option<String>,
    /// Shell command of the program, which listens on `$HOST:$PORT`; empty: that of the image.
    pub(super) run: String,
    pub(super) program: Program,
    /// Path of the health check; `None`: the default.
    health: Option<String>,
    /// Time within which the program must be healthy after its start; `None`: the default.
    timeout: Option<Duration>,
    /// Notices about the file, for the task's log.
    pub(super) notices: Vec<String>,
}

/// Contents of `tenantry.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlManifest {
    /// Recipe, as `name` or `name:version`.
    recipe: Option<String>,
    build: Option<Build>,
    run: Option<Run>,
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
    command: Option<String>,
    /// Image of a registry that is run instead of the code.
    image: Option<String>,
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
    pub(super) fn read(
        environment: &EnvironmentDir,
        release: &str,
        context: &ManifestContext<'_>,
    ) -> Result<Self> {
        let read = |name| environment.read_release_file(release, name, MANIFEST_BYTES_MAX);
        let has_engine = context.technology == Technology::Containers;
        let dockerfile = if has_engine { read("Dockerfile")? } else { None };
        if let Some(file) = &dockerfile {
            check_dockerfile(&file.text).context("the Dockerfile cannot be built")?;
        }
        if let Some(file) = read("tenantry.toml")? {
            let manifest = Self::parse(&file.text).context("tenantry.toml is not valid")?;
            let manifest = manifest.with_program(dockerfile.is_some(), context)?;
            return Ok(manifest.with_notice(&file));
        }
        if dockerfile.is_some() {
            return Ok(Self { program: Program::Dockerfile, ..Self::of_image() });
        }
        let Some(file) = read("Procfile")? else {
            let recipe = context.default_recipe.clone().context(
                "the branch has neither a tenantry.toml nor a Procfile; add a Procfile with the line \
                 `web: <command that listens on $PORT>`",
            )?;
            return Self { program: Program::Recipe(recipe), ..Self::of_image() }
                .with_recipe(context);
        };
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

    /// The command and the health check of an image without a manifest.
    fn of_image() -> Self {
        Self {
            build: None,
            run: String::new(),
            program: Program::Dockerfile,
            health: None,
            timeout: None,
            notices: vec![],
        }
    }

    /// Sets the origin of the program. Fails if the server cannot run it.
    fn with_program(mut self, has_dockerfile: bool, context: &ManifestContext<'_>) -> Result<Self> {
        if let (Program::Code, false, true, Some(recipe)) =
            (&self.program, has_dockerfile, self.run.is_empty(), &context.default_recipe)
        {
            self.program = Program::Recipe(recipe.clone());
        }
        if matches!(self.program, Program::Recipe(_)) {
            return self.with_recipe(context);
        }
        if matches!(self.program, Program::Image(_)) {
            anyhow::ensure!(
                context.technology == Technology::Containers,
                "tenantry.toml names an image (`run.image`), but this server has no container engine; name a \
                 command (`run.command`), or ask its operator to start the runner with --driver docker"
            );
        } else if has_dockerfile {
            self.program = Program::Dockerfile;
        } else {
            anyhow::ensure!(
                !self.run.is_empty(),
                "tenantry.toml is not valid: missing field `command` of `run`, the command of the program"
            );
        }
        if self.program != Program::Code && self.build.take().is_some() {
            let notice =
                "not run: `build.command` of tenantry.toml, because the version is an image";
            self.notices.push(notice.to_owned());
        }
        Ok(self)
    }

    /// Sets the commands and the health check of the recipe. Those of the file take precedence, and its build
    /// command follows that of the recipe.
    fn with_recipe(mut self, context: &ManifestContext<'_>) -> Result<Self> {
        let Program::Recipe(reference) = &self.program else { return Ok(self) };
        anyhow::ensure!(
            context.technology == Technology::Containers,
            "the recipe {reference} needs containers, but this server has no container engine; add commands \
             (`run.command` of tenantry.toml, or a Procfile), or ask its operator to start the runner with \
             --driver docker"
        );
        anyhow::ensure!(
            self.run.is_empty(),
            "tenantry.toml names a recipe and a program of its own (`run`); remove one of them"
        );
        let recipe = context.recipes.get(reference)?;
        self.run = recipe.run_command();
        self.build = recipe.build_command(self.build.as_deref());
        self.health = self.health.or_else(|| recipe.health.path.clone());
        self.timeout = self.timeout.or_else(|| recipe.health.timeout_s.map(timeout));
        Ok(self)
    }

    /// Path of the health check: a status below 500 means healthy.
    pub(super) fn health_path(&self) -> &str {
        self.health.as_deref().unwrap_or("/")
    }

    /// Parses a manifest for code.
    #[cfg(test)]
    fn from_toml(text: &str) -> Result<Self> {
        let recipes = Recipes::default();
        let context = ManifestContext {
            technology: Technology::Sandbox,
            recipes: &recipes,
            default_recipe: None,
        };
        Self::parse(text)?.with_program(false, &context)
    }

    fn parse(text: &str) -> Result<Self> {
        let manifest: TomlManifest = toml::from_str(text)?;
        let health = manifest.health.as_ref();
        let path = health.and_then(|it| it.path.clone());
        let is_valid = path
            .as_ref()
            .is_none_or(|it| it.starts_with('/') && it.bytes().all(|it| it.is_ascii_graphic()));
        anyhow::ensure!(
            is_valid,
            "health.path must begin with / and consist of visible ASCII characters"
        );
        let timeout = health.and_then(|it| it.timeout_s).map(timeout);
        let (command, image) = manifest.run.map(|it| (it.command, it.image)).unwrap_or_default();
        let program = match (manifest.recipe, image) {
            (None, None) => Program::Code,
            (None, Some(image)) => Program::Image(image),
            (Some(recipe), None) => Program::Recipe(recipe.parse()?),
            (Some(_), Some(_)) => {
                anyhow::bail!("it names a recipe and an image; remove one of them")
            }
        };
        Self {
            build: manifest.build.map(|it| it.command),
            run: command.unwrap_or_default(),
            program,
            health: path,
            timeout,
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
            program: Program::Code,
            health: None,
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

/// Returns the time within which a program must be healthy after its start.
fn timeout(seconds: u64) -> Duration {
    Duration::from_secs(seconds.clamp(1, TIMEOUT_S_MAX))
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
        assert_eq!(manifest.health_path(), "/up");
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
