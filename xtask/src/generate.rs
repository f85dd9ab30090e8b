//! Files that are generated and committed: the checked queries, golden files, the README's table.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use crate::{
    Outcome, machine, rules,
    run::{self, root},
};

/// Crates with queries; each is also the name of a schema.
const CRATES: [&str; 5] = ["chassis", "identity", "project", "invitation", "audit"];
const BEGIN: &str = "<!-- settings: cargo xtask gen -->\n";
const END: &str = "<!-- /settings -->\n";

/// Makes every generated file anew.
pub(crate) fn all() -> Outcome {
    machine::need(&[machine::POSTGRES, machine::NATS, machine::GIT])?;
    queries(&root().join(".sqlx"))?;
    let readme = root().join("README.md");
    write(&readme, &with_settings(&read(&readme)?)?)?;
    let table = root().join("docs/rules.md");
    write(&table, &rules::with_tests(&read(&table)?)?)?;
    let mut golden = run::cargo_command();
    golden
        .args(["test", "--package", "tests", "--", "authorization", "events"])
        .env("UPDATE_GOLDEN", "1");
    run::finish(&mut golden, "cargo test --package tests -- authorization events")
}

/// Fails if a generated file is not what would be generated. The tests compare the golden files.
pub(crate) fn check() -> Outcome {
    let fresh = root().join("target/sqlx-check");
    queries(&fresh)?;
    if contents(&root().join(".sqlx")) != contents(&fresh) {
        return Err(
            "the queries in .sqlx are not those of the code; run `cargo xtask gen`".to_owned()
        );
    }
    let table = read(&root().join("docs/rules.md"))?;
    if rules::with_tests(&table)? != table {
        return Err("the tests in docs/rules.md are old; run `cargo xtask gen`".to_owned());
    }
    let readme = read(&root().join("README.md"))?;
    if with_settings(&readme)? != readme {
        return Err("the table of settings in README.md is old; run `cargo xtask gen`".to_owned());
    }
    Ok(())
}

fn with_settings(readme: &str) -> Outcome<String> {
    run::cargo(&["build", "--workspace", "--bins"])?;
    let output = Command::new(root().join("target/debug/tenantry")).arg("config").output();
    let table = output.map_err(|error| format!("tenantry config: {error}"))?.stdout;
    let (before, rest) =
        readme.split_once(BEGIN).ok_or("README.md has no place for the settings")?;
    let (_, after) = rest.split_once(END).ok_or("README.md has no end of the settings")?;
    Ok(format!("{before}{BEGIN}{}{END}{after}", String::from_utf8_lossy(&table)))
}

/// Compiles with a database at hand, which makes sqlx write what it learned into `folder`.
fn queries(folder: &Path) -> Outcome {
    let database = Scratch::start()?;
    database.create_schemas()?;
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut check = run::cargo_command();
    check.args(["check", "--quiet", "--workspace"]).env("SQLX_OFFLINE_DIR", folder);
    for name in CRATES {
        check.env(format!("{}_DATABASE_URL", name.to_uppercase()), database.url(name));
    }
    // Cargo compiles what has changed: these look as if they had, and afterwards as if they had not.
    let sources = CRATES.map(|it| crate_folder(it).join("src/lib.rs"));
    let old: Vec<_> =
        sources.iter().map(|it| fs::metadata(it).and_then(|it| it.modified()).ok()).collect();
    for source in &sources {
        set_modified(source, Some(SystemTime::now()));
    }
    let outcome = run::finish(&mut check, "cargo check, with a database");
    for (source, old) in sources.iter().zip(old) {
        set_modified(source, old);
    }
    outcome
}

fn set_modified(path: &Path, at: Option<SystemTime>) {
    if let (Ok(file), Some(at)) = (File::options().append(true).open(path), at) {
        let _ = file.set_modified(at);
    }
}

fn crate_folder(name: &str) -> PathBuf {
    root().join(if name == "chassis" { "shared" } else { "services" }).join(name)
}

fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|it| {
            (it.file_name().to_string_lossy().into_owned(), fs::read(it.path()).unwrap_or_default())
        })
        .collect()
}

fn read(path: &Path) -> Outcome<String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn write(path: &Path, text: &str) -> Outcome {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// A PostgreSQL for the time of a compilation.
struct Scratch {
    folder: PathBuf,
    bin: PathBuf,
    server: Child,
}

impl Scratch {
    fn start() -> Outcome<Self> {
        let bin = machine::postgres().ok_or("there is no PostgreSQL")?;
        let folder = std::env::temp_dir().join(format!("tenantry-gen-{}", std::process::id()));
        let data = folder.join("data");
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        if machine::root_user() {
            let mut chown = Command::new("chown");
            run::finish(chown.arg("postgres").arg(&folder), "chown postgres")?;
        }
        let mut initdb = as_owner(&bin.join("initdb"));
        initdb.args([
            "--username=tenantry",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]);
        let made = initdb.arg("-D").arg(&data).stdout(Stdio::null()).status();
        if !made.is_ok_and(|it| it.success()) {
            return Err("initdb failed".to_owned());
        }
        let mut postgres = as_owner(&bin.join("postgres"));
        postgres.arg("-D").arg(&data).arg("-k").arg(&folder);
        postgres.args(["-c", "listen_addresses=", "-c", "fsync=off"]);
        let server = postgres.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let server = server.map_err(|error| format!("postgres: {error}"))?;
        let scratch = Self { folder, bin, server };
        scratch.wait()?;
        Ok(scratch)
    }

    fn wait(&self) -> Outcome {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            if self.psql("postgres", &["-c", "select 1"]).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err("the PostgreSQL for the queries does not start".to_owned())
    }

    fn create_schemas(&self) -> Outcome {
        self.psql("postgres", &["-c", "create database tenantry"])?;
        for name in CRATES {
            self.psql("tenantry", &["-c", &format!("create schema {name}")])?;
            let mut folders = vec![crate_folder("chassis")];
            if name != "chassis" {
                folders.push(crate_folder(name));
            }
            for folder in folders {
                let entries =
                    fs::read_dir(folder.join("migrations")).into_iter().flatten().flatten();
                let mut files: Vec<_> =
                    entries.map(|it| it.path().to_string_lossy().into_owned()).collect();
                files.sort();
                for file in files {
                    self.psql(
                        "tenantry",
                        &["-c", &format!("set search_path = {name}"), "-f", &file],
                    )?;
                }
            }
        }
        Ok(())
    }

    fn psql(&self, database: &str, arguments: &[&str]) -> Outcome {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["-q", "-v", "ON_ERROR_STOP=1", "-U", "tenantry", "-d", database, "-h"])
            .arg(&self.folder);
        let output = psql.args(arguments).output().map_err(|error| format!("psql: {error}"))?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(format!("psql: {}", errors.trim())) }
    }

    fn url(&self, schema: &str) -> String {
        let socket = self.folder.display();
        format!(
            "postgres://tenantry@localhost/tenantry?host={socket}&options=-csearch_path%3D{schema}"
        )
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-INT", &self.server.id().to_string()]).status();
        let _ = self.server.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// PostgreSQL refuses root.
fn as_owner(program: &Path) -> Command {
    if !machine::root_user() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
    command
}
