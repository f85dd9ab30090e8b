//! Recipes: programs of one kind, such as Odoo or Tryton, which need no Dockerfile. A recipe is a file of the
//! operator; a repository chooses one by its name. It runs in a base image, with the code at `/app`.

mod load;

use std::{collections::BTreeMap, fmt, str::FromStr};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

pub(crate) use load::Recipes;

/// Recipe of a project with an `odoo_version` whose repository says nothing else.
pub(crate) const ODOO: &str = "odoo";

/// Place of the version in the name of an image.
const VERSION: &str = "{version}";

/// Name of the process that answers requests.
const WEB: &str = "web";

/// Maximum length of the name of a recipe, and of a version, in bytes.
const NAME_BYTES_MAX: usize = 32;

/// Maximum number of paths with ports of their own.
const ROUTES_MAX: usize = 8;

/// Reference to a recipe: `name`, or `name:version`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecipeRef {
    pub(crate) name: String,
    /// `None`: the version of the recipe.
    pub(crate) version: Option<String>,
}

/// A recipe. All commands are run by `/bin/sh -e` in the directory of the code, after `setup`. They get the
/// variables of the environment, and those of [`Recipe::variables`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    /// Name of the base image. `{version}` is replaced by the version.
    image: String,
    /// Version, if the repository names none.
    version: Option<String>,
    /// True: a version is deployed only with a database, in `DATABASE_URL`.
    #[serde(default)]
    pub(crate) needs_database: bool,
    /// Memory that one worker needs, in MiB: limits the number of workers.
    memory_per_worker_mb: Option<u32>,
    /// Shell lines that precede each command.
    #[serde(default)]
    setup: String,
    /// Steps of the build.
    #[serde(default)]
    build: Vec<BuildStep>,
    /// Run before each start of a new version, with its code, while the previous one serves.
    prepare: Option<Task>,
    /// Processes of the program, by name. `web` listens on `$HOST:$PORT`. They run in one container, which
    /// ends with the first one of them.
    processes: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) health: Health,
    /// Paths that another port of the container serves. Only behind the proxy, which `ROUTES` says.
    #[serde(default)]
    pub(crate) routes: Vec<PathRoute>,
    update: Option<Update>,
    /// Run in a copy of PRODUCTION before its first start: nothing of it may reach people or other systems.
    neutralize: Option<Task>,
}

/// Step of a build.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BuildStep {
    /// Path in the code; the step is left out if it does not exist.
    if_exists: Option<String>,
    command: String,
}

/// A command that a task runs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Task {
    command: String,
}

/// Update of the modules in `$MODULES`, which are separated by commas.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    command: String,
    /// True: the program is started again afterwards.
    #[serde(default)]
    restart: bool,
}

/// Health check.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Health {
    pub(crate) path: Option<String>,
    pub(crate) timeout_s: Option<u64>,
}

/// A path that another port serves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PathRoute {
    /// Path, with all paths below it.
    pub(crate) path: String,
    /// TCP port in the container.
    pub(crate) port: u16,
}

/// CPU and memory of an environment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProgramResources {
    pub(crate) cpu_cores: f64,
    pub(crate) memory_mb: u32,
}

impl FromStr for RecipeRef {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, version) = match text.split_once(':') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        ensure!(
            is_name(name) && version.is_none_or(is_version),
            "{text:?} is not a recipe; write its name, or name:version, for example tryton:7.0"
        );
        Ok(Self { name: name.to_owned(), version: version.map(str::to_owned) })
    }
}

impl fmt::Display for RecipeRef {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) => write!(formatter, "{}:{version}", self.name),
            None => formatter.write_str(&self.name),
        }
    }
}

/// Lower-case letters, digits and hyphens.
fn is_name(text: &str) -> bool {
    let is_valid = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-';
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_valid)
}

/// Characters of a tag of an image.
fn is_version(text: &str) -> bool {
    let is_valid = |it: u8| it.is_ascii_alphanumeric() || b"._-".contains(&it);
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(is_valid)
        && text.as_bytes()[0].is_ascii_alphanumeric()
}

impl Recipe {
    /// Parses a recipe. An error of its format names the line.
    fn parse(text: &str) -> Result<Self> {
        let recipe: Self = toml::from_str(text)?;
        ensure!(!recipe.image.is_empty(), "`image` is empty");
        ensure!(recipe.processes.contains_key(WEB), "`processes` has no `{WEB}`");
        for name in recipe.processes.keys() {
            ensure!(is_name(name), "the name of the process {name:?} is not valid");
        }
        let paths = recipe.build.iter().filter_map(|it| it.if_exists.as_deref());
        for path in paths {
            ensure!(!path.contains('\''), "the path {path:?} contains a quotation mark");
        }
        let health = recipe.health.path.as_deref().unwrap_or("/");
        ensure!(
            health.starts_with('/') && health.bytes().all(|it| it.is_ascii_graphic()),
            "health.path must begin with / and consist of visible ASCII characters"
        );
        for PathRoute { path, port } in &recipe.routes {
            let is_path = |it: u8| it.is_ascii_alphanumeric() || b"/-_.".contains(&it);
            ensure!(
                path.len() > 1 && path.starts_with('/') && path.bytes().all(is_path) && *port > 0,
                "the route {path:?} is not valid: it needs a path of letters, digits, / - _ . and a port"
            );
        }
        ensure!(recipe.routes.len() <= ROUTES_MAX, "more than {ROUTES_MAX} `routes`");
        ensure!(!text.contains('\0'), "the file contains a NUL byte");
        Ok(recipe)
    }

    /// Name of the base image for a version.
    pub(crate) fn image(&self, reference: &RecipeRef) -> Result<String> {
        if !self.image.contains(VERSION) {
            return Ok(self.image.clone());
        }
        match reference.version.as_ref().or(self.version.as_ref()) {
            Some(version) => Ok(self.image.replace(VERSION, version)),
            None => bail!(
                "the recipe {name} needs a version: write {name}:<version> in tenantry.toml",
                name = reference.name
            ),
        }
    }

    /// Command of the build, before that of the repository; `None`: there is nothing to build.
    pub(crate) fn build_command(&self, of_repository: Option<&str>) -> Option<String> {
        let steps = self.build.iter().map(|step| match &step.if_exists {
            Some(path) => format!("if [ -e '{path}' ]; then\n{}\nfi", step.command),
            None => step.command.clone(),
        });
        let steps: Vec<_> = steps.chain(of_repository.map(str::to_owned)).collect();
        (!steps.is_empty()).then(|| self.script(&steps.join("\n")))
    }

    /// Command of the program. The end of a process ends `web`, and with it the container.
    pub(crate) fn run_command(&self) -> String {
        let others = self.processes.iter().filter(|it| it.0 != WEB);
        let others = others.map(|(name, command)| {
            format!(
                "(\n(\n{command}\n) || status=$?\necho \"the process {name} has ended (exit status: \
                 ${{status:-0}})\" >&2\nkill $$\n) &\n"
            )
        });
        let web = self.processes.get(WEB).map(String::as_str).unwrap_or_default();
        self.script(&(others.collect::<String>() + web))
    }

    /// Command that prepares data for a new version.
    pub(crate) fn prepare_command(&self) -> Option<String> {
        self.prepare.as_ref().map(|it| self.script(&it.command))
    }

    /// Command that updates modules.
    pub(crate) fn update_command(&self) -> Option<String> {
        self.update.as_ref().map(|it| self.script(&it.command))
    }

    /// True if the program is started again after an update.
    pub(crate) fn restarts_after_update(&self) -> bool {
        self.update.as_ref().is_some_and(|it| it.restart)
    }

    /// Command that neutralizes a copy.
    pub(crate) fn neutralize_command(&self) -> Option<String> {
        self.neutralize.as_ref().map(|it| self.script(&it.command))
    }

    fn script(&self, command: &str) -> String {
        format!("set -e\n{}\n{command}", self.setup)
    }

    /// Variables of commands: `WORKERS` and `MEMORY_BYTES` from the resources, and those of libpq (`PGHOST`,
    /// `PGPORT`, `PGUSER`, `PGPASSWORD`, `PGDATABASE`) from the URL of the database.
    pub(crate) fn variables(
        &self,
        resources: ProgramResources,
        database_url: Option<&str>,
    ) -> Result<BTreeMap<String, String>> {
        let mut variables = BTreeMap::from([
            ("WORKERS".to_owned(), self.workers(resources).to_string()),
            ("MEMORY_BYTES".to_owned(), (u64::from(resources.memory_mb) << 20).to_string()),
        ]);
        let Some(url) = database_url else { return Ok(variables) };
        // Not the error of the parser as the cause, which could quote the password.
        let url = url::Url::parse(url).ok().context("DATABASE_URL is not a URL")?;
        let decoded = |text: &str| {
            percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
        };
        let values = [
            ("PGHOST", url.host_str().unwrap_or_default().to_owned()),
            ("PGPORT", url.port().unwrap_or(5432).to_string()),
            ("PGUSER", decoded(url.username())),
            ("PGPASSWORD", decoded(url.password().unwrap_or_default())),
            ("PGDATABASE", decoded(url.path().trim_start_matches('/'))),
        ];
        variables.extend(values.map(|(name, value)| (name.to_owned(), value)));
        Ok(variables)
    }

    /// Number of workers: two for each core and one more, if there is memory for them.
    fn workers(&self, resources: ProgramResources) -> u32 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "some thousand cores at most; a negative number becomes 0"
        )]
        let by_cpu = (resources.cpu_cores * 2.0) as u32 + 1;
        let by_memory =
            self.memory_per_worker_mb.map_or(u32::MAX, |it| resources.memory_mb / it.max(1));
        by_cpu.min(by_memory).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = "image = \"x:1\"\n[processes]\nweb = \"exec serve\"\n";

    #[test]
    fn a_reference_has_a_name_and_perhaps_a_version() {
        let parsed = |text: &str| text.parse::<RecipeRef>();
        assert_eq!(parsed("tryton").unwrap().version, None);
        assert_eq!(parsed("odoo:17.0").unwrap().to_string(), "odoo:17.0");
        for bad in
            ["", "Odoo", "odoo:", "odoo:../x", "odoo:a/b", "odoo:1:2", "odoo:-1", "a b", "odoo:$X"]
        {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_invalid_recipe_is_refused_with_its_reason() {
        Recipe::parse(SMALLEST).unwrap();
        let invalid = [
            ("[processes]\nweb = \"x\"\n", "missing field `image`"),
            ("image = \"x\"\n[processes]\nworker = \"x\"\n", "`processes` has no `web`"),
            ("image = \"x\"\nport = 1\n[processes]\nweb = \"x\"\n", "line 2"),
            ("image = \"x\"\n[processes]\nweb = \"x\"\nA = \"x\"\n", "process \"A\""),
            (
                "image = \"x\"\n[processes]\nweb = \"x\"\n[[routes]]\npath = \"/a*\"\nport = 1\n",
                "the route \"/a*\"",
            ),
            ("image = \"x\"\n[processes]\nweb = \"x\"\n[health]\npath = \"up\"\n", "health.path"),
        ];
        for (text, reason) in invalid {
            let error = format!("{:#}", Recipe::parse(text).unwrap_err());
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn the_version_is_part_of_the_image() {
        let mut recipe = Recipe::parse(SMALLEST).unwrap();
        "example/odoo:{version}-slim".clone_into(&mut recipe.image);
        let image = |recipe: &Recipe, text: &str| recipe.image(&text.parse().unwrap());
        assert_eq!(image(&recipe, "odoo:17.0").unwrap(), "example/odoo:17.0-slim");
        assert!(image(&recipe, "odoo").unwrap_err().to_string().contains("odoo:<version>"));
        recipe.version = Some("18.0".to_owned());
        assert_eq!(image(&recipe, "odoo").unwrap(), "example/odoo:18.0-slim");
    }

    #[test]
    fn workers_are_limited_by_cpu_and_memory() {
        let mut recipe = Recipe::parse(SMALLEST).unwrap();
        let workers = |recipe: &Recipe, cpu_cores, memory_mb| {
            recipe.workers(ProgramResources { cpu_cores, memory_mb })
        };
        assert_eq!(workers(&recipe, 2.0, 100), 5);
        recipe.memory_per_worker_mb = Some(512);
        assert_eq!(workers(&recipe, 2.0, 1_024), 2);
        assert_eq!(workers(&recipe, 0.5, 256), 1);
    }

    #[test]
    fn the_database_is_in_the_variables_of_libpq() {
        let recipe = Recipe::parse(SMALLEST).unwrap();
        let resources = ProgramResources { cpu_cores: 1.0, memory_mb: 512 };
        let url = Some("postgres://env_1:a%2Fb@10.213.0.1:5433/env_1");
        let variables = recipe.variables(resources, url).unwrap();
        let database =
            ["PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE"].map(|it| &*variables[it]);
        assert_eq!(database, ["10.213.0.1", "5433", "env_1", "a/b", "env_1"]);
        assert_eq!(variables["MEMORY_BYTES"], "536870912");
        let error = recipe.variables(resources, Some("secret value")).unwrap_err();
        assert!(!format!("{error:#}").contains("secret value"), "{error:#}");
    }

    #[test]
    fn commands_follow_the_setup() {
        let text = "image = \"x:1\"\nsetup = \"export A=1\"\n[processes]\nweb = \"exec serve\"\n\
                    worker = \"exec work\"\n[[build]]\nif_exists = \"list.txt\"\ncommand = \"install\"\n";
        let recipe = Recipe::parse(text).unwrap();
        let build = recipe.build_command(Some("make")).unwrap();
        assert_eq!(build, "set -e\nexport A=1\nif [ -e 'list.txt' ]; then\ninstall\nfi\nmake");
        let run = recipe.run_command();
        assert!(run.starts_with("set -e\nexport A=1\n(\n(\nexec work\n)"), "{run}");
        assert!(run.ends_with("kill $$\n) &\nexec serve"), "{run}");
        assert_eq!(recipe.update_command(), None);
    }
}
