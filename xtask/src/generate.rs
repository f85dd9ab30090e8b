//! Generated files that are committed: checked queries, golden files, the table of settings, tests of
//! rules, and the reference.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use crate::{
    Outcome, machine, reference, rules,
    run::{self, root},
};

/// Schemas of the database, each with the name of the crate whose migrations create its tables. Queries of
/// other shared crates are checked with the schema of `chassis`.
const SCHEMAS: [&str; 5] = ["chassis", "identity", "project", "invitation", "audit"];
/// Document with the table of settings, between the two marks.
const SETTINGS: &str = "docs/operations/configuration.md";
const BEGIN: &str = "<!-- settings: cargo xtask gen -->\n";
const END: &str = "<!-- /settings -->\n";

/// Updates every generated file.
pub(crate) fn all() -> Outcome {
    machine::need(&[machine::POSTGRES, machine::NATS, machine::GIT])?;
    queries(&root().join(".sqlx"), &["check", "--quiet", "--workspace"])?;
    let settings = root().join(SETTINGS);
    write(&settings, &with_settings(&read(&settings)?)?)?;
    let rules = root().join(rules::DOCUMENT);
    write(&rules, &rules::with_tests(&read(&rules)?)?)?;
    for (file, text) in reference::pages()? {
        write(&file, &text)?;
    }
    let arguments = "test --workspace --test it -- suite::authorization suite::event_goldens";
    let mut golden = run::cargo_command();
    golden.args(arguments.split(' ')).env("UPDATE_GOLDEN", "1");
    run::finish(&mut golden, &format!("cargo {arguments}"))
}

/// Fails if clippy finds something, or if a generated file is not up to date. Golden files are compared by
/// tests.
pub(crate) fn check() -> Outcome {
    check_queries()?;
    let mut outdated = vec![];
    let rules = read(&root().join(rules::DOCUMENT))?;
    if rules::with_tests(&rules)? != rules {
        outdated.push(rules::DOCUMENT.to_owned());
    }
    let settings = read(&root().join(SETTINGS))?;
    if with_settings(&settings)? != settings {
        outdated.push(SETTINGS.to_owned());
    }
    for (file, text) in reference::pages()? {
        if read(&file).ok() != Some(text) {
            outdated.push(file.strip_prefix(root()).unwrap_or(&file).display().to_string());
        }
    }
    if outdated.is_empty() {
        Ok(())
    } else {
        Err(format!("not up to date: {}; run `cargo xtask gen`", outdated.join(", ")))
    }
}

/// Fails if clippy finds something, or if the files of `.sqlx` differ from those generated from the queries
/// of the code and the tables of the migrations. Both compile every crate with queries, so they are one step.
/// The queries are not generated if none of their inputs has changed since the last success.
fn check_queries() -> Outcome {
    let stamp = root().join("target/sqlx-check.stamp");
    let inputs = hash_of_inputs();
    if fs::read_to_string(&stamp).is_ok_and(|it| it == inputs) {
        return run::cargo(&run::CLIPPY);
    }
    let fresh = root().join("target/sqlx-check");
    queries(&fresh, &run::CLIPPY)?;
    if contents(&root().join(".sqlx")) != contents(&fresh) {
        return Err("the queries in .sqlx are not up to date; run `cargo xtask gen`".to_owned());
    }
    write(&stamp, &inputs)
}

/// Returns a hash of everything that the checked queries depend on.
fn hash_of_inputs() -> String {
    let mut files = vec![root().join("Cargo.lock")];
    let mut folders: Vec<_> =
        ["shared", "services", ".sqlx"].iter().map(|it| root().join(it)).collect();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|it| it.path()) {
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.hash(&mut hasher);
        fs::read(file).unwrap_or_default().hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}

/// Builds `tenantry`, and returns the document with the table of settings that `tenantry config` prints.
fn with_settings(document: &str) -> Outcome<String> {
    run::build(&["--bin", "tenantry"])?;
    let output = Command::new(root().join("target/debug/tenantry")).arg("config").output();
    let table = output.map_err(|error| format!("tenantry config: {error}"))?.stdout;
    let (before, rest) = document
        .split_once(BEGIN)
        .ok_or_else(|| format!("{SETTINGS} has no `{}`", BEGIN.trim()))?;
    let (_, after) =
        rest.split_once(END).ok_or_else(|| format!("{SETTINGS} has no `{}`", END.trim()))?;
    Ok(format!("{before}{BEGIN}{}{END}{after}", String::from_utf8_lossy(&table)))
}

/// Runs cargo with a database, which makes the macros of sqlx write the checked queries into `folder`.
fn queries(folder: &Path, arguments: &[&str]) -> Outcome {
    let database = ScratchPostgres::start()?;
    database.create_schemas()?;
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut check = run::cargo_command();
    check.args(arguments).env("SQLX_OFFLINE_DIR", folder);
    for name in SCHEMAS {
        check.env(format!("{}_DATABASE_URL", name.to_uppercase()), database.url(name));
    }
    // A newer modification time makes Cargo recompile a crate. The old times are restored afterwards.
    let sources = crates_with_queries();
    let old_times: Vec<_> =
        sources.iter().map(|it| fs::metadata(it).and_then(|it| it.modified()).ok()).collect();
    for source in &sources {
        set_modified(source, Some(SystemTime::now()));
    }
    let outcome =
        run::finish(&mut check, &format!("cargo {}, with a database", arguments.join(" ")));
    for (source, old_time) in sources.iter().zip(old_times) {
        set_modified(source, old_time);
    }
    outcome
}

fn set_modified(path: &Path, at: Option<SystemTime>) {
    if let (Ok(file), Some(at)) = (File::options().append(true).open(path), at) {
        let _ = file.set_modified(at);
    }
}

/// Returns `src/lib.rs` of every crate with queries: those crates have a `sqlx.toml`.
fn crates_with_queries() -> Vec<PathBuf> {
    let groups = ["shared", "services"].map(|it| root().join(it));
    let folders = groups.iter().filter_map(|it| fs::read_dir(it).ok()).flatten().flatten();
    let crates = folders.map(|it| it.path()).filter(|it| it.join("sqlx.toml").exists());
    crates.map(|it| it.join("src/lib.rs")).collect()
}

/// Directory of a crate that has migrations.
fn crate_folder(name: &str) -> PathBuf {
    root().join(if name == "chassis" { "shared" } else { "services" }).join(name)
}

/// Contents of the files in a directory, by name.
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

/// A temporary PostgreSQL for a compilation.
struct ScratchPostgres {
    folder: PathBuf,
    bin: PathBuf,
    server: Child,
}

impl ScratchPostgres {
    fn start() -> Outcome<Self> {
        let bin = machine::postgres().ok_or("PostgreSQL is not installed")?;
        let folder = std::env::temp_dir().join(format!("tenantry-gen-{}", std::process::id()));
        let data = folder.join("data");
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        if machine::is_root() {
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
        let status = initdb.arg("-D").arg(&data).stdout(Stdio::null()).status();
        if !status.is_ok_and(|it| it.success()) {
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
        Err("the temporary PostgreSQL does not start".to_owned())
    }

    fn create_schemas(&self) -> Outcome {
        self.psql("postgres", &["-c", "create database tenantry"])?;
        for name in SCHEMAS {
            self.psql("tenantry", &["-c", &format!("create schema {name}")])?;
            // Every service has the tables of `chassis`, too.
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

impl Drop for ScratchPostgres {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-INT", &self.server.id().to_string()]).status();
        let _ = self.server.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Returns a command that is run by the user `postgres` if this user is root, which PostgreSQL refuses.
fn as_owner(program: &Path) -> Command {
    if !machine::is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
    command
}
