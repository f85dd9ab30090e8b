//! Deployed code against its host: each attack is a real deployment on a real runner.
//!
//! As root every boundary holds. A runner that is not root has no accounts, networks and control groups to
//! give away, so those attacks are for root only; a file system view of its own is there for both.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use testkit::Suite;

use crate::{
    hosting::{ENVIRONMENTS, Hosting, visit},
    world::text,
};

const COMPLETED: &str = "TASK_STATE_COMPLETED";

/// Runs the shell command in the path of each request (hexadecimal) and answers its output.
const SHELL_SERVER: &str = r#"use IO::Socket::INET;
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

/// A tenant whose deployed program runs any shell command.
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
        let attach = hosting.world.there(json!({ "serviceKey": "postgresql" }));
        hosting.owner().tell("project.v1.AttachmentService/AttachService", attach).await;
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

    /// Deploys with these commands; answers the task.
    async fn deploy(&self, build: &str, run: &str) -> Value {
        let manifest = format!("[build]\ncommand = '''{build}'''\n[run]\ncommand = '''{run}'''\n");
        self.hosting.repository.write("tenantry.toml", &manifest);
        self.hosting.repository.commit("attack");
        self.hosting.run("Deploy", &self.id, json!({})).await
    }

    /// Output of a shell command that the deployed program runs.
    async fn shell(&self, command: &str) -> String {
        self.shell_of(&self.id, command).await
    }

    async fn shell_of(&self, id: &str, command: &str) -> String {
        let url = text(&self.hosting.get(id).await["url"]);
        let path = format!("/{}", data_encoding::HEXLOWER.encode(command.as_bytes()));
        visit(&url, &path).await.expect("the deployed program answers")
    }

    /// The address of an environment's database, as its program finds it.
    async fn database_url(&self, id: &str) -> String {
        let variables = self.shell_of(id, "env").await;
        let url = variables.lines().find_map(|line| line.strip_prefix("DATABASE_URL="));
        url.expect("the program has a database").to_owned()
    }

    /// The tree of the environment on the host.
    fn directory(&self, suite: &Suite) -> PathBuf {
        suite.folder().join("runner").join(&self.id)
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A file on the host that nobody but the host's administrator may change.
fn victim(folder: &Path) -> PathBuf {
    let path = folder.join("victim");
    std::fs::write(&path, "untouched").unwrap();
    path
}

/// Variables of a tenant are set for the tenant's program only: with a `PATH`, `LD_PRELOAD`, `BASH_ENV` or
/// `ENV` of its own nothing of the tenant runs outside its sandbox.
#[tokio::test(flavor = "multi_thread")]
async fn variables_of_a_tenant_act_inside_its_sandbox_only() {
    let suite = Suite::start().await;
    let attacker = Attacker::new(&suite).await;
    let data = attacker.directory(&suite).join("data");
    let plant = r#"mkdir -p $DATA_DIR/bin
        for name in sh bash setpriv unshare nsenter prlimit bwrap git mount mkdir; do
            printf '#!/bin/sh\n/usr/bin/id -u >> %s/uids\nexec /usr/bin/%s "$@"\n' \
                $DATA_DIR $name > $DATA_DIR/bin/$name
            chmod 755 $DATA_DIR/bin/$name
        done
        echo "/usr/bin/id -u >> $DATA_DIR/uids" > $DATA_DIR/profile"#;
    attacker.shell(plant).await;
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
        let request = attacker.hosting.of(&attacker.id, set);
        let _ = attacker.hosting.owner().ask(&method, request).await;
        attacker.hosting.run("Restart", &attacker.id, json!({})).await;
    }
    let uids = std::fs::read_to_string(data.join("uids")).unwrap_or_default();
    let own = rustix::process::geteuid().as_raw().to_string();
    if is_root() {
        assert!(!uids.lines().any(|uid| uid == own), "planted programs ran as root: {uids}");
    }
    let seen = attacker.shell("echo path=$PATH").await;
    assert!(seen.contains("/data/bin"), "the tenant's PATH is its program's: {seen}");
    suite.finish().await;
}

/// A committed link in place of `tenantry.toml` is not followed: no file of the host appears in an error.
#[tokio::test(flavor = "multi_thread")]
async fn a_linked_manifest_shows_no_file_of_the_host() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let id = hosting.environment("main", "DEVELOPMENT").await;
    let secret = suite.folder().join("secret.key");
    let key = std::fs::read_to_string(&secret).unwrap();
    let manifest = hosting.repository.path().join("tenantry.toml");
    for target in [secret.as_path(), Path::new("/etc/shadow"), Path::new("/proc/self/environ")] {
        std::fs::remove_file(&manifest).unwrap();
        std::os::unix::fs::symlink(target, &manifest).unwrap();
        hosting.repository.commit("linked");
        let task = hosting.run("Deploy", &id, json!({})).await;
        assert_eq!(task["state"], "TASK_STATE_FAILED");
        let error = text(&task["errorMessage"]);
        assert!(error.contains("symbolic link"), "{error}");
        assert!(!task.to_string().contains(key.trim()) && !error.contains("root:"), "{task}");
    }
    suite.finish().await;
}

/// Links and pipes that a build or a program leaves in its own tree lead the runner nowhere: not its log, not
/// its records, not the removal of old versions, not the manifest that it reads again.
#[tokio::test(flavor = "multi_thread")]
async fn links_in_the_tree_of_a_tenant_lead_nowhere() {
    let suite = Suite::start().await;
    let attacker = Attacker::new(&suite).await;
    let outside = tempfile::tempdir().unwrap();
    std::fs::set_permissions(outside.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let victim = victim(outside.path());
    let tree = attacker.directory(&suite);
    let (tree, target) = (tree.display(), outside.path().display());
    // Inside the sandbox these paths are not there; where the tree is shared they are the real ones.
    let replace = format!(
        "for tree in {tree} $DATA_DIR/.. /; do cd $tree || continue; \
         rm -rf log log.1 state.json record.json launch.json starting releases data; \
         ln -s {target}/victim log; ln -s {target}/victim log.1; ln -s {target}/victim state.json; \
         ln -s {target}/victim record.json; ln -s {target}/victim starting; \
         ln -s {target} releases; ln -s {target} data; done; echo replaced"
    );
    attacker.shell(&replace).await;
    attacker.hosting.run("Restart", &attacker.id, json!({})).await;
    let hidden = "rm -rf /app/tenantry.toml tenantry.toml; \
                  mkfifo /app/tenantry.toml || mkfifo tenantry.toml; true";
    attacker.shell(hidden).await;
    let task = attacker.hosting.run("Restart", &attacker.id, json!({})).await;
    assert_eq!(task["state"], "TASK_STATE_FAILED", "a pipe is no manifest: {task}");
    for _ in 0..5 {
        let task = attacker.deploy("true", "exec perl shell.pl").await;
        assert_eq!(task["state"], COMPLETED, "{task}");
    }
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&victim).unwrap());
    assert_eq!(owner, rustix::process::geteuid().as_raw(), "nothing outside was given away");
    let sure = json!({ "confirmName": "attacker" });
    attacker.hosting.run("Destroy", &attacker.id, sure).await;
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
    suite.finish().await;
}

/// A program sees itself and its own files: no other environment, no other process, no file of the host that
/// it does not need, no capability, no variable of the runner.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_sees_only_its_own_environment() {
    let suite = Suite::start().await;
    let attacker = Attacker::new(&suite).await;
    let status = attacker.shell("cat /proc/self/status").await;
    assert!(status.contains("CapBnd:\t0000000000000000"), "{status}");
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let processes = attacker.shell("ls /proc | grep -c '^[0-9]'").await;
    assert!(processes.trim().parse::<u32>().unwrap() < 10, "{processes}");
    let folder = suite.folder().display().to_string();
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

/// The loopback and the addresses of the host, other environments and private networks are out of reach: no
/// program speaks to the suite as a neighbour or as a trusted proxy.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_reaches_neither_the_host_nor_another_environment() {
    if !is_root() {
        return;
    }
    let suite = Suite::start().await;
    let attacker = Attacker::new(&suite).await;
    let other = attacker.hosting.environment("other", "DEVELOPMENT").await;
    let task = attacker.hosting.run("Deploy", &other, json!({})).await;
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

/// A clone restores a tenant's dump with the tenant's rights: a function in the dump that asks for more gets
/// nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_cloned_database_is_restored_without_rights_over_the_server() {
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
    let clone = hosting.of(&attacker.id, json!({ "name": "copy" }));
    let made = hosting.owner().tell(&format!("{ENVIRONMENTS}/CloneEnvironment"), clone).await;
    let task = hosting.ended(&text(&made["task"]["id"])).await;
    assert_eq!(task["state"], COMPLETED, "{task}");
    assert!(!marker.exists(), "{}", std::fs::read_to_string(&marker).unwrap_or_default());
    let copied = attacker.database_url(&text(&made["environment"]["id"])).await;
    let mut connection = PgConnection::connect(&copied).await.unwrap();
    let rows: i64 =
        sqlx::query_scalar("select count(*) from t").fetch_one(&mut connection).await.unwrap();
    assert_eq!(rows, 1, "the copy has the data");
    suite.finish().await;
}

/// The most memory that this process has had, in MiB.
fn memory_peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// A build that writes without an end costs the suite nothing: lines are cut, the log has an end and says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_floods_its_log_costs_the_suite_nothing() {
    let suite = Suite::start().await;
    let attacker = Attacker::new(&suite).await;
    // The high-water mark starts again.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory_peak();
    let flood = "head -c 600000000 /dev/zero | tr '\\0' x; echo; yes line | head -n 2000000; \
                 echo last; exit 3";
    let task = attacker.deploy(flood, "exec perl shell.pl").await;
    assert_eq!(task["state"], "TASK_STATE_FAILED");
    let grown = memory_peak() - before;
    // Other tests run in this process, too; the first line alone has 600 MB.
    assert!(grown < 500, "the suite grew by {grown} MiB");
    let lines = task["logLines"].as_array().unwrap();
    let log = suite
        .count(
            "select coalesce(sum(octet_length(array_to_string(lines, ''))), 0)::bigint
             from project.task_log",
        )
        .await;
    assert!(log < 8 << 20, "{log} bytes of log were kept");
    assert!(task.to_string().contains("not kept"), "{:?}", lines.last());
    suite.finish().await;
}

/// A build that multiplies ends at the limit of its environment, and the suite goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_multiplies_meets_its_limit() {
    if !is_root() {
        return;
    }
    let suite = Suite::start().await;
    let attacker = Attacker::new(&suite).await;
    let multiply = "for i in $(seq 3000); do sleep 300 & done; ls /proc | grep -c '^[0-9]'; exit 4";
    let task = attacker.deploy(multiply, "exec perl shell.pl").await;
    assert_eq!(task["state"], "TASK_STATE_FAILED", "{task}");
    let error = text(&task["errorMessage"]);
    assert!(!error.contains("3003"), "all of them ran: {error}");
    assert_eq!(attacker.hosting.state(&attacker.id).await, "ERROR");
    assert!(attacker.shell("echo alive").await.contains("alive"), "the old version serves on");
    suite.finish().await;
}

/// A build that takes more memory than its environment has ends; the version that serves does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_hoards_memory_meets_its_limit() {
    let suite = Suite::start().await;
    let attacker = Attacker::new(&suite).await;
    let hoard = "perl -e '$x = \"x\" x (900 << 20); print length $x' & \
                 perl -e '$x = \"x\" x (900 << 20); print length $x; sleep 2' && wait && echo hoarded";
    let task = attacker.deploy(hoard, "exec perl shell.pl").await;
    if is_root() {
        assert_eq!(task["state"], "TASK_STATE_FAILED", "{task}");
    }
    assert!(attacker.shell("echo alive").await.contains("alive"), "the old version serves on");
    suite.finish().await;
}

/// Very many files and deep folders keep a runner neither from its heartbeats nor from a
/// task.
#[tokio::test(flavor = "multi_thread")]
async fn many_files_do_not_silence_the_runner() {
    let suite = Suite::start().await;
    let attacker = Attacker::new(&suite).await;
    let files = "cd $DATA_DIR && perl -e 'for my $d (1..200) { mkdir $d; for (1..500) { \
                 open my $f, \">\", \"$d/$_\"; } } \
                 for (1..1500) { mkdir \"d\"; chdir \"d\" or last }' && echo made";
    let task = attacker.deploy(files, "exec perl shell.pl").await;
    assert_eq!(task["state"], COMPLETED, "{task}");
    let healthy = "select count(*) from project.server where health = 'healthy'";
    assert_eq!(suite.count(healthy).await, 1);
    let sure = json!({ "confirmName": "attacker" });
    let task = attacker.hosting.run("Destroy", &attacker.id, sure).await;
    assert_eq!(task["state"], COMPLETED, "{task}");
    assert!(!attacker.directory(&suite).exists());
    suite.finish().await;
}
