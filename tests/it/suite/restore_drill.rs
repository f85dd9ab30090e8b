//! Restore drill with the scripts of `deploy/backup`: a base backup and archived WAL of a PostgreSQL under
//! load, loss of the whole data directory, restore to the latest state and to an earlier moment.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
};

use api::admin::{GetIntegrityRequest, RunFsckRequest};
use embedded_postgres::program;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool};
use tempfile::TempDir;
use testkit::{Person, eventually};

use crate::support::{admin_client::connect, suite_process::SuiteProcess};

/// Name under which `pg_receivewal` confirms that it has stored the WAL of a commit.
const RECEIVER: &str = "tenantry_wal";

/// Directories of backups, which survive the loss of the data directory.
struct Backups {
    folder: TempDir,
}

impl Backups {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let backups = Self { folder };
        for name in ["scripts", "base", "wal", "stream", "keys"] {
            fs::create_dir(backups.path(name)).unwrap();
        }
        // The server writes to the archive, and runs the script that does, with its own system user.
        for path in [backups.folder.path(), &backups.path("scripts")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::set_permissions(backups.path("wal"), fs::Permissions::from_mode(0o777)).unwrap();
        for script in ["archive-wal.sh", "backup.sh", "restore.sh"] {
            let source =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/backup").join(script);
            fs::copy(source, backups.path("scripts").join(script)).unwrap();
        }
        backups
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, script: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.path("scripts").join(script));
        let bin = program("pg_basebackup").unwrap();
        command.args(arguments).env("PG_BIN", bin.parent().unwrap());
        command
    }

    /// Runs a script; returns its output.
    fn run(&self, script: &str, arguments: &[&str]) -> String {
        text(script, &self.command(script, arguments).output().unwrap())
    }

    /// Makes a base backup; returns its directory.
    fn base(&self, suite: &SuiteProcess) -> String {
        let url = database_url(suite, "backup");
        let directory = self.path("base").display().to_string();
        self.run("backup.sh", &["base", &url, &directory]).trim().to_owned()
    }

    /// Copies the keys and the journal of signed heads.
    fn keys(&self, suite: &SuiteProcess) {
        let (from, to) = (suite.data_dir().display(), self.path("keys"));
        self.run("backup.sh", &["keys", &from.to_string(), &to.display().to_string()]);
    }

    /// Restores the database to a time, as the system user `owner`.
    fn restore(&self, base: &str, suite: &SuiteProcess, time: &str, owner: u32) {
        // The receiver of the WAL has run as the user of the test.
        for entry in fs::read_dir(self.path("stream")).unwrap().flatten() {
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o644)).unwrap();
        }
        fs::set_permissions(self.path("stream"), fs::Permissions::from_mode(0o755)).unwrap();
        let data = data_dir(suite).display().to_string();
        let (wal, stream) = (self.path("wal"), self.path("stream"));
        let directories = [wal.display().to_string(), stream.display().to_string()];
        let arguments = [base, &data, time, &directories[0], &directories[1]];
        let mut command = self.command("restore.sh", &arguments);
        if rustix::process::geteuid().is_root() {
            command.env("PG_OWNER", owner.to_string());
        }
        text("restore.sh", &command.output().unwrap());
    }

    /// Restores the keys and the journal.
    fn restore_keys(&self, suite: &SuiteProcess) {
        for entry in fs::read_dir(self.path("keys")).unwrap().flatten() {
            fs::copy(entry.path(), suite.data_dir().join(entry.file_name())).unwrap();
        }
    }
}

/// Output of a program that has succeeded.
fn text(name: &str, output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// `PGDATA` of the private server.
fn data_dir(suite: &SuiteProcess) -> PathBuf {
    suite.data_dir().join("postgres")
}

fn database_url(suite: &SuiteProcess, application: &str) -> String {
    let socket = suite.data_dir().join("run");
    let socket = socket.display();
    format!("host={socket} user=tenantry dbname=tenantry application_name={application}")
}

/// Stops the private server with a signal and waits for its end: `QUIT` is an end without a checkpoint.
async fn stop_server(suite: &SuiteProcess, signal: Signal) {
    let file = fs::read_to_string(data_dir(suite).join("postmaster.pid")).unwrap();
    let pid: i32 = file.lines().next().unwrap().trim().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    let working_dir = format!("/proc/{pid}/cwd");
    eventually("the end of the server", async || fs::read_link(&working_dir).err()).await;
}

async fn execute(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await.unwrap();
}

/// Starts the suite and waits until its databases are migrated.
async fn start_again(suite: &mut SuiteProcess) {
    suite.start_again().await;
    connect(suite.data_dir()).await;
}

/// Turns the archive on, and the receiver of WAL without whose confirmation no call is acknowledged.
async fn archive(suite: &mut SuiteProcess, backups: &Backups) -> Receiver {
    let pool = suite.pool().await;
    execute(&pool, "alter system set archive_mode = on").await;
    let (script, wal) = (backups.path("scripts").join("archive-wal.sh"), backups.path("wal"));
    let command = format!("{} %p {}/%f", script.display(), wal.display());
    execute(&pool, &format!("alter system set archive_command = '{command}'")).await;
    pool.close().await;
    suite.kill();
    stop_server(suite, Signal::INT).await;
    start_again(suite).await;
    let receiver = Receiver::start(suite, &backups.path("stream"));
    let pool = suite.pool().await;
    execute(&pool, &format!("alter system set synchronous_standby_names = '{RECEIVER}'")).await;
    execute(&pool, "select pg_reload_conf()").await;
    eventually("the synchronous receiver", async || {
        let state = "select count(*) from pg_stat_replication where sync_state = 'sync'";
        let count: i64 = sqlx::query_scalar(state).fetch_one(&pool).await.unwrap();
        (count == 1).then_some(())
    })
    .await;
    pool.close().await;
    receiver
}

/// A running `pg_receivewal`; killed with the value.
struct Receiver(Child);

impl Receiver {
    fn start(suite: &SuiteProcess, directory: &Path) -> Self {
        let mut command = Command::new(program("pg_receivewal").unwrap());
        command.arg("--dbname").arg(database_url(suite, RECEIVER));
        command.args(["--synchronous", "--no-loop", "--directory"]).arg(directory);
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }

    /// Waits for its end, after that of the server.
    fn wait(mut self) {
        let _ = self.0.wait();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Names of the teams whose creation was acknowledged.
type Acknowledged = Arc<Mutex<Vec<String>>>;

/// Creates teams one after the other until a call fails.
async fn create_teams(owner: Person, org: String, prefix: String, acknowledged: Acknowledged) {
    for n in 0.. {
        let name = format!("{prefix} {n}");
        let create = json!({ "orgId": org, "name": name });
        if owner.call("identity.v1.TeamService/CreateTeam", create).await.is_err() {
            return;
        }
        acknowledged.lock().unwrap().push(name);
    }
}

/// Waits until `count` more teams are acknowledged.
async fn wait_for_more(acknowledged: &Acknowledged, count: usize) {
    let before = acknowledged.lock().unwrap().len();
    eventually("further acknowledged calls", async || {
        (acknowledged.lock().unwrap().len() >= before + count).then_some(())
    })
    .await;
}

/// Names of the stored teams.
async fn stored_teams(pool: &PgPool) -> Vec<String> {
    let names = "select name from identity.team order by created_at, id";
    sqlx::query_scalar(names).fetch_all(pool).await.unwrap()
}

/// Waits until the log has every team, and all of it is signed.
async fn wait_for_log(pool: &PgPool) {
    let pending = "select (select count(*) from identity.team)
        - (select count(*) from audit.entry join audit.term on term.number = entry.action
           where term.tree = entry.tree and value = 'team.created')
        + (select count(*) from audit.tree where signed < size)";
    eventually("the signed log", async || {
        let pending: i64 = sqlx::query_scalar(pending).fetch_one(pool).await.unwrap();
        (pending == 0).then_some(())
    })
    .await;
}

/// Checks the whole log.
async fn check_log(suite: &SuiteProcess) {
    let mut admin = connect(suite.data_dir()).await;
    // Not while the check of the start runs.
    eventually("the start of a check", async || {
        admin.clone().run_fsck(RunFsckRequest {}).await.ok()
    })
    .await;
    let checked = eventually("the end of the check", async || {
        let integrity = admin.clone().get_integrity(GetIntegrityRequest {}).await.ok()?;
        let newest = integrity.into_inner().runs.into_iter().next()?;
        newest.end_time.is_some().then_some(newest)
    })
    .await;
    assert_eq!((checked.finding_count, checked.error.as_str()), (0, ""), "{checked:?}");
    assert!(checked.entries > 0);
    let integrity = admin.get_integrity(GetIntegrityRequest {}).await.unwrap().into_inner();
    assert!(integrity.restrictions.is_empty(), "{integrity:?}");
}

/// Destroys the suite with everything in its data directory. Returns the system user of the server.
async fn lose_everything(suite: &mut SuiteProcess) -> u32 {
    let owner = fs::metadata(data_dir(suite)).unwrap().uid();
    suite.kill();
    stop_server(suite, Signal::QUIT).await;
    fs::remove_dir_all(data_dir(suite)).unwrap();
    for file in ["secret.key", "audit.key", "audit.keys", "audit.signed"] {
        fs::remove_file(suite.data_dir().join(file)).unwrap();
    }
    owner
}

/// After the loss of the server in the middle of a load nothing that was acknowledged is missing. A database
/// of an earlier moment is refused until the operator declares what is lost; then the suite goes on.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_and_an_older_state_is_declared() {
    let backups = Backups::new();
    let mut suite = SuiteProcess::start().await;
    let owner = suite.person("owner@example.com").await;
    let org = owner.create_organization("acme").await.unwrap();
    let receiver = archive(&mut suite, &backups).await;
    let owner = Person { client: suite.client.with_token(&owner.token), ..owner };

    // A base backup under load, and a moment to which the database returns later.
    let acknowledged = Acknowledged::default();
    let mut loads = vec![];
    for prefix in ["blue", "green"] {
        let (owner, org, acknowledged) = (owner.clone(), org.clone(), acknowledged.clone());
        loads.push(tokio::spawn(create_teams(owner, org, prefix.to_owned(), acknowledged)));
    }
    wait_for_more(&acknowledged, 20).await;
    let base = tokio::task::block_in_place(|| backups.base(&suite));
    wait_for_more(&acknowledged, 20).await;
    let pool = suite.pool().await;
    let earlier_acknowledged = acknowledged.lock().unwrap().clone();
    let earlier: String =
        sqlx::query_scalar("select clock_timestamp()::text").fetch_one(&pool).await.unwrap();
    wait_for_more(&acknowledged, 20).await;
    wait_for_log_of(&pool, earlier_acknowledged.len() + 1).await;
    backups.keys(&suite);
    wait_for_more(&acknowledged, 20).await;
    pool.close().await;

    // Loss in the middle of the load, and restore to the latest state.
    let system_user = lose_everything(&mut suite).await;
    for load in loads {
        load.await.unwrap();
    }
    receiver.wait();
    backups.restore_keys(&suite);
    backups.restore(&base, &suite, "latest", system_user);
    start_again(&mut suite).await;
    let pool = suite.pool().await;
    let stored = stored_teams(&pool).await;
    let acknowledged = acknowledged.lock().unwrap().clone();
    let lost: Vec<_> = acknowledged.iter().filter(|it| !stored.contains(it)).collect();
    assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), acknowledged.len());
    assert!(stored.len() <= acknowledged.len() + 2, "each load has at most one call in flight");
    wait_for_log(&pool).await;
    check_log(&suite).await;
    pool.close().await;

    // The earlier moment: the log refuses it, because it signed more.
    suite.kill();
    stop_server(&suite, Signal::INT).await;
    fs::remove_dir_all(data_dir(&suite)).unwrap();
    backups.restore(&base, &suite, &earlier, system_user);
    let error = suite.start_error();
    assert!(error.contains("the database is older than what was signed"), "{error}");
    assert!(error.contains("--audit-origin"), "{error}");

    // The operator declares the loss: a new name of the log, without the journal. Events that arrived before
    // the refusal have put their logs into quarantine, because the journal had more entries.
    fs::remove_file(suite.data_dir().join("audit.signed")).unwrap();
    suite.add_flag("--audit-origin=tenantry.localhost/audit-2");
    let released = tokio::task::block_in_place(|| suite.release_quarantines());
    assert!(released.contains("no differences"), "{released}");
    start_again(&mut suite).await;
    let pool = suite.pool().await;
    let stored = stored_teams(&pool).await;
    let lost: Vec<_> = earlier_acknowledged.iter().filter(|it| !stored.contains(it)).collect();
    assert!(lost.is_empty(), "of before that moment are lost: {lost:?}");
    assert!(stored.len() <= earlier_acknowledged.len() + 2, "later teams are gone");
    let owner = Person { client: suite.client.with_token(&owner.token), ..owner };
    let create = json!({ "orgId": org, "name": "after the restore" });
    owner.call_ok("identity.v1.TeamService/CreateTeam", create).await;
    wait_for_log(&pool).await;
    check_log(&suite).await;
    pool.close().await;
    suite.stop();
}

/// Waits until the log has signed at least `count` teams.
async fn wait_for_log_of(pool: &PgPool, count: usize) {
    let signed = "select count(*) from audit.entry join audit.term on term.number = entry.action
                  join audit.tree on tree.number = entry.tree
                  where term.tree = entry.tree and value = 'team.created' and index < signed";
    let count = i64::try_from(count).unwrap();
    eventually("the signed teams", async || {
        let signed: i64 = sqlx::query_scalar(signed).fetch_one(pool).await.unwrap();
        (signed >= count).then_some(())
    })
    .await;
}
