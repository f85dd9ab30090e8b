//! Attacks of deployed code on its host: each one is a real deployment on a real runner.
//!
//! A runner that is not root cannot create accounts, network namespaces and control groups, so the tests of
//! those boundaries need root; the isolated file system is tested in both cases.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use testkit::Suite;

use crate::support::{
    hosting::{ENVIRONMENTS, Hosting, response},
    world::text,
};

const COMPLETED: &str = "TASK_STATE_COMPLETED";

/// HTTP server in Perl: runs the shell command in the path of a request (hexadecimal), responds with its
/// output.
pub(super) const SHELL_SERVER: &str = r#"use IO::Socket::INET;
my $server = IO::Socket::INET->new(
    LocalAddr => $ENV{HOST}, LocalPort => $ENV{PORT}, Listen => 16, ReuseAddr => 1) or die "$!";
$SIG{PIPE} = 'IGNORE';
while (my $client = $server->accept) {
    my $first = <$client> // '';
    while (defined(my $line = <$client>)) { last if $line =~ /^\r?\n$/ }
    my ($hex) = $first =~ m{^GET /([0-9a-f]*)};
    my $command = pack 'H*', $hex // '';
    open(my $pipe, '-|', '/bin/sh', '-c', "exec 2>&1; $command") or die "$!";
    my $body = join '', <$pipe>; close $pipe;
    print $client "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n$body";
    close $client;
}
"#;

/// A tenant whose deployed program runs arbitrary shell commands.
struct Attacker {
    hosting: Hosting,
    id: String,
}

impl Attacker {
    async fn new(suite: &Suite) -> Self {
        Self::deployed(Hosting::new(suite).await).await
    }

    async fn with_database(suite: &Suite) -> Self {
        let hosting = Hosting::new(suite).await;
        let attach = hosting.world.project_request(json!({ "addonKey": "postgresql" }));
        hosting.owner().call_ok("project.v1.AddonService/AttachAddon", attach).await;
        Self::deployed(hosting).await
    }

    async fn deployed(hosting: Hosting) -> Self {
        hosting.repository.write("shell.pl", SHELL_SERVER);
        let id = hosting.environment("attacker", "DEVELOPMENT").await;
        let attacker = Self { hosting, id };
        let task = attacker.deploy("true", "exec perl shell.pl").await;
        assert_eq!(task["state"], COMPLETED, "{task}");
        attacker
    }

    /// Deploys with these commands; returns the finished task.
    async fn deploy(&self, build: &str, run: &str) -> Value {
        let manifest = format!("[build]\ncommand = '''{build}'''\n[run]\ncommand = '''{run}'''\n");
        self.hosting.repository.write("tenantry.toml", &manifest);
        self.hosting.repository.commit("attack");
        self.hosting.run_task("Deploy", &self.id, json!({})).await
    }

    /// Output of a shell command that the deployed program runs.
    async fn shell(&self, command: &str) -> String {
        self.shell_of(&self.id, command).await
    }

    /// Output of a shell command in another environment.
    async fn shell_of(&self, id: &str, command: &str) -> String {
        let url = text(&self.hosting.get(id).await["url"]);
        let path = format!("/{}", data_encoding::HEXLOWER.encode(command.as_bytes()));
        response(&url, &path).await
    }

    /// URL of the database of an environment, from the variables of its program.
    async fn database_url(&self, id: &str) -> String {
        let variables = self.shell_of(id, "env").await;
        let url = variables.lines().find_map(|line| line.strip_prefix("DATABASE_URL="));
        url.expect("the program has a database").to_owned()
    }

    /// Directory of the environment on the host.
    fn directory(&self, suite: &Suite) -> PathBuf {
        suite.data_dir().join("runner").join(&self.id)
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Creates a file on the host that tenants must not change.
fn victim(folder: &Path) -> PathBuf {
    let path = folder.join("victim");
    std::fs::write(&path, "untouched").unwrap();
    path
}

/// `PATH`, `LD_PRELOAD`, `BASH_ENV` and `ENV` of a tenant take effect inside its sandbox only.
#[tokio::test(flavor = "multi_thread")]
async fn variables_of_a_tenant_take_effect_in_its_sandbox_only() {
    let suite = Suite::start().await;
    let attacker = Attacker::new(&suite).await;
    let data = attacker.directory(&suite).join("data");
    let plant_programs = r#"mkdir -p $DATA_DIR/bin
        for name in sh bash setpriv unshare nsenter prlimit bwrap git mount mkdir; do
            printf '#!/bin/sh\n/usr/bin/id -u >> %s/uids\nexec /usr/bin/%s "$@"\n' \
                $DATA_DIR $name > $DATA_DIR/bin/$name
            chmod 755 $DATA_DIR/bin/$name
        done
        echo "/usr/bin/id -u >> $DATA_DIR/uids" > $DATA_DIR/profile"#;
    attacker.shell(plant_programs).await;
    let host = data.display();
    let hostile = [
        ("PATH", format!("{host}/bin:/data/bin:/usr/bin:/bin")),
        ("BASH_ENV", format!("{host}/profile")),
        ("ENV", format!("{host}/profile")),
        ("LD_PRELOAD", format!("{host}/bin/none.so")),
    ];
    for (name, value) in hostile {
        let set = json!({ "set": [{ "name": name, "value": value }] });
        let method = format!("{ENVIRONMENTS}/SetVariables");
        let request = attacker.hosting.request(&attacker.id, set);
        let _ = attacker.hosting.owner().call(&method, request).await;
        attacker.hosting.run_task("Restart", &attacker.id, json!({})).await;
    }
    let uids = std::fs::read_to_string(data.join("uids")).unwrap_or_default();
    let own = rustix::process::geteuid().as_raw().to_string();
    if is_root() {
        assert!(!uids.lines().any(|uid| uid == own), "planted programs ran as root: {uids}");
    }
    let path = attacker.shell("echo path=$PATH").await;
    assert!(path.contains("/data/bin"), "the program has the PATH of the tenant: {path}");
    suite.finish().await;
}

/// A symbolic link in place of `tenantry.toml` is not followed: no file of the host appears in an error.
#[tokio::test(flavor = "multi_thread")]
async fn a_linked_manifest_shows_no_file_of_the_host() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let id = hosting.environment("main", "DEVELOPMENT").await;
    let secret = suite.data_dir().join("secret.key");
    let key = std::fs::read_to_string(&secret).unwrap();
    let manifest = hosting.repository.path().join("tenantry.toml");
    for target in [secret.as_path(), Path::new("/etc/shadow"), Path::new("/proc/self/environ")] {
        std::fs::remove_file(&manifest).unwrap();
        std::os::unix::fs::symlink(target, &manifest).unwrap();
        hosting.repository.commit("linked");
        let task = hosting.run_task("Deploy", &id, json!({})).await;
        assert_eq!(task["state"], "TASK_STATE_FAILED");
        let error = text(&task["errorMessage"]);
        assert!(error.contains("symbolic link"), "{error}");
        assert!(!task.to_string().contains(key.trim()) && !error.contains("root:"), "{task}");
    }
    suite.finish().await;
}

/// Links and pipes in the directory of a tenant are not followed when the runner writes logs and records,
/// removes old releases, or reads the manifest again.
#[tokio::test(flavor = "multi_thread")]
async fn links_in_the_directory_of_a_tenant_are_not_followed() {
    let suite = Suite::start().await;
    let attacker = Attacker::new(&suite).await;
    let outside = tempfile::tempdir().unwrap();
    std::fs::set_permissions(outside.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let victim = victim(outside.path());
    let tree = attacker.directory(&suite);
    let tree = tree.display();
    let target = outside.path().display();
    // These paths do not exist in a sandbox; without one they are the real ones.
    let replace = format!(
        "for tree in {tree} $DATA_DIR/.. /; do cd $tree || continue; \
         rm -rf log log.1 state.json record.json launch.json starting releases data; \
         ln -s {target}/victim log; ln -s {target}/victim log.1; ln -s {target}/victim state.json; \
         ln -s {target}/victim record.json; ln -s {target}/victim starting; \
         ln -s {target} releases; ln -s {target} data; done; echo replaced"
    );
    attacker.shell(&replace).await;
    attacker.hosting.run_task("Restart", &attacker.id, json!({})).await;
    let pipe_manifest = "rm -rf /app/tenantry.toml tenantry.toml; \
                  mkfifo /app/tenantry.toml || mkfifo tenantry.toml; true";
    attacker.shell(pipe_manifest).await;
    let task = attacker.hosting.run_task("Restart", &attacker.id, json!({})).await;
    assert_eq!(task["state"], "TASK_STATE_FAILED", "a pipe as manifest: {task}");
    for _ in 0..5 {
        let task = attacker.deploy("true", "exec perl shell.pl").await;
        assert_eq!(task["state"], COMPLETED, "{task}");
    }
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&victim).unwrap());
    assert_eq!(owner, rustix::process::geteuid().as_raw(), "the owner of the file has not changed");
    let destroy = json!({ "confirmName": "attacker" });
    attacker.hosting.run_task("Destroy", &attacker.id, destroy).await;
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
    suite.finish().await;
}

/// A program has its own processes and files only: no other environment, no unneeded file of the host, no
/// capability, no variable of the runner.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_has_access_to_its_own_environment_only() {
    let suite = Suite::start().await;
    let attacker = Attacker::new(&suite).await;
    let status = attacker.shell("cat /proc/self/status").await;
    assert!(status.contains("CapBnd:\t0000000000000000"), "{status}");
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let processes = attacker.shell("ls /proc | grep -c '^[0-9]'").await;
    assert!(processes.trim().parse::<u32>().unwrap() < 10, "{processes}");
    let folder = suite.data_dir().display().to_string();
    for path in [&folder, "/root", "/home", "/var/lib", "/etc/shadow", "/run/docker.sock"] {
        let found = attacker.shell(&format!("ls -d {path} && echo found")).await;
        assert!(!found.contains("found"), "{path}: {found}");
    }
    let environment = attacker.shell("env").await;
    for foreign in ["CARGO", "DATABASE_URL", "RUST"] {
        assert!(!environment.contains(foreign), "{environment}");
    }
    let escaped = attacker
        .shell("unshare -Ur true && echo escaped; mount -t tmpfs none /mnt && echo escaped")
        .await;
    assert!(!escaped.lines().any(|line| line == "escaped"), "{escaped}");
    let terminal = attacker.shell("(: < /dev/tty) && echo open").await;
    assert!(!terminal.lines().any(|line| line == "open"), "{terminal}");
    suite.finish().await;
}

/// Loopback and addresses of the host, other environments and private networks are unreachable, so that no
/// program connects to the suite as a trusted proxy.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_reaches_neither_the_host_nor_another_environment() {
    if !is_root() {
        return;
    }
    let suite = Suite::start().await;
    let attacker = Attacker::new(&suite).await;
    let other = attacker.hosting.environment("other", "DEVELOPMENT").await;
    let task = attacker.hosting.run_task("Deploy", &other, json!({})).await;
    assert_eq!(task["state"], COMPLETED, "{task}");
    let neighbour = text(&attacker.hosting.get(&other).await["url"]);
    let neighbour = neighbour.trim_start_matches("http://").replace(':', " ");
    let connect = |address: &str| {
        let (host, port) = address.split_once(' ').unwrap();
        format!(
            "perl -MIO::Socket::INET -e 'print IO::Socket::INET->new(PeerAddr=>\"{host}\",PeerPort=>{port},\
             Timeout=>2) ? \"reached\" : \"refused\"'"
        )
    };
    let port = suite.address.port();
    let gateway = attacker.shell("ip route | awk '/default/ { print $3 }'").await;
    let gateway = format!("{} {port}", gateway.trim());
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let open = listener.local_addr().unwrap().port();
    let mut addresses = vec![format!("127.0.0.1 {port}"), neighbour];
    if !gateway.starts_with(' ') {
        addresses.extend([gateway.clone(), gateway.replace(&port.to_string(), &open.to_string())]);
    }
    for address in &addresses {
        let answer = attacker.shell(&connect(address)).await;
        assert_eq!(answer, "refused", "{address}");
    }
    suite.finish().await;
}

/// A clone restores the dump of a tenant as the role of the tenant: functions in it run without other
/// privileges.
#[tokio::test(flavor = "multi_thread")]
async fn a_cloned_database_is_restored_without_privileges() {
    let suite = Suite::start().await;
    let attacker = Attacker::with_database(&suite).await;
    let hosting = &attacker.hosting;
    let url = attacker.database_url(&attacker.id).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .unwrap();
    let marker = folder.path().join("marker");
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let hostile = format!(
        "create function public.f(integer) returns boolean language plpgsql as $$ begin \
           begin execute 'reset role'; execute 'reset session authorization'; \
             execute 'copy (select 1) to program ''id -u > {}'''; \
           exception when others then null; end; \
           return true; end $$; \
         create table t (n integer check (public.f(n))); insert into t values (1);",
        marker.display()
    );
    connection.execute(sqlx::AssertSqlSafe(hostile)).await.unwrap();
    let clone = hosting.request(&attacker.id, json!({ "name": "copy" }));
    let cloned = hosting.owner().call_ok(&format!("{ENVIRONMENTS}/CloneEnvironment"), clone).await;
    let task = hosting.finished_task(&text(&cloned["task"]["id"])).await;
    assert_eq!(task["state"], COMPLETED, "{task}");
    assert!(!marker.exists(), "{}", std::fs::read_to_string(&marker).unwrap_or_default());
    let copy_url = attacker.database_url(&text(&cloned["environment"]["id"])).await;
    let mut connection = PgConnection::connect(&copy_url).await.unwrap();
    let rows: i64 =
        sqlx::query_scalar("select count(*) from t").fetch_one(&mut connection).await.unwrap();
    assert_eq!(rows, 1, "the copy has the data");
    suite.finish().await;
}

/// Peak resident memory of this process in MiB.
fn memory_peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// Endless output of a build is bounded: lines are cut, and the log is truncated with a notice.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_build_is_bounded() {
    let suite = Suite::start().await;
    let attacker = Attacker::new(&suite).await;
    // Resets the peak.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory_peak();
    let flood = "head -c 600000000 /dev/zero | tr '\\0' x; echo; yes line | head -n 2000000; \
                 echo last; exit 3";
    let task = attacker.deploy(flood, "exec perl shell.pl").await;
    assert_eq!(task["state"], "TASK_STATE_FAILED");
    let grown = memory_peak() - before;
    // Other tests run in this process too; the first line alone has 600 MB.
    assert!(grown < 500, "the suite grew by {grown} MiB");
    let lines = task["logLines"].as_array().unwrap();
    let log = suite
        .count(
            "select coalesce(sum(octet_length(array_to_string(lines, ''))), 0)::bigint
             from project.task_log",
        )
        .await;
    assert!(log < 8 << 20, "{log} bytes of log are stored");
    assert!(task.to_string().contains("log truncated"), "{:?}", lines.last());
    suite.finish().await;
}

/// A fork bomb in a build fails at the process limit of its environment; the running version still serves.
#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_in_a_build_is_limited() {
    if !is_root() {
        return;
    }
    let suite = Suite::start().await;
    let attacker = Attacker::new(&suite).await;
    let fork_bomb =
        "for i in $(seq 3000); do sleep 300 & done; ls /proc | grep -c '^[0-9]'; exit 4";
    let task = attacker.deploy(fork_bomb, "exec perl shell.pl").await;
    assert_eq!(task["state"], "TASK_STATE_FAILED", "{task}");
    let error = text(&task["errorMessage"]);
    assert!(!error.contains("3003"), "all processes ran: {error}");
    assert_eq!(attacker.hosting.state(&attacker.id).await, "ERROR");
    assert!(attacker.shell("echo alive").await.contains("alive"), "the old version still serves");
    suite.finish().await;
}

/// A build that exceeds its memory limit fails with the limit; the running version still serves.
#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_a_build_is_limited() {
    let suite = Suite::start().await;
    let attacker = Attacker::new(&suite).await;
    let allocate = "perl -e '$x = \"x\" x (900 << 20); print length $x' & \
                 perl -e '$x = \"x\" x (900 << 20); print length $x; sleep 2' && wait && echo hoarded";
    let task = attacker.deploy(allocate, "exec perl shell.pl").await;
    if is_root() {
        assert_eq!(task["state"], "TASK_STATE_FAILED", "{task}");
        let error = text(&task["errorMessage"]);
        let expected = "the build exceeded its memory limit of 1024 MiB";
        assert!(error.starts_with(expected), "{error}");
        assert!(task["logLines"].to_string().contains(expected), "{task}");
    }
    assert!(attacker.shell("echo alive").await.contains("alive"), "the old version still serves");
    suite.finish().await;
}

/// Very many files and deep folders delay neither heartbeats nor tasks of a runner.
#[tokio::test(flavor = "multi_thread")]
async fn many_files_do_not_delay_heartbeats() {
    let suite = Suite::start().await;
    let attacker = Attacker::new(&suite).await;
    let files = "cd $DATA_DIR && perl -e 'for my $d (1..200) { mkdir $d; for (1..500) { \
                 open my $f, \">\", \"$d/$_\"; } } \
                 for (1..1500) { mkdir \"d\"; chdir \"d\" or last }' && echo made";
    let task = attacker.deploy(files, "exec perl shell.pl").await;
    assert_eq!(task["state"], COMPLETED, "{task}");
    let healthy = "select count(*) from project.server where health = 'healthy'";
    assert_eq!(suite.count(healthy).await, 1);
    let destroy = json!({ "confirmName": "attacker" });
    let task = attacker.hosting.run_task("Destroy", &attacker.id, destroy).await;
    assert_eq!(task["state"], COMPLETED, "{task}");
    assert!(!attacker.directory(&suite).exists());
    suite.finish().await;
}
