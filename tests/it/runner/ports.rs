//! Ports of programs that share the machine's network: another program that listens on a port is not mistaken
//! for the deployed one.

use serde_json::json;
use testkit::{Process, Suite, eventually};

use crate::support::{
    fake_runner::FakeRunner,
    hosting::{ENVIRONMENTS, Hosting, response, visit},
    world::text,
};

/// HTTP server in Perl that serves `page.txt` on its port, and after `GET /take/<port>` on that port, too.
const TAKER: &str = r#"use IO::Socket::INET;
open(my $file, '<', 'page.txt') or die "$!"; my $page = join '', <$file>;
sub serve { my $server = IO::Socket::INET->new(
    LocalAddr => $ENV{HOST}, LocalPort => shift, Listen => 16, ReuseAddr => 1) or exit 1;
    $SIG{PIPE} = 'IGNORE';
    while (my $client = $server->accept) {
        my $first = <$client> // '';
        while (defined(my $line = <$client>)) { last if $line =~ /^\r?\n$/ }
        if ($first =~ m{^GET /take/(\d+)} && !fork) { close $client; close $server; serve($1) }
        print $client "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n$page";
        close $client;
    }
}
serve($ENV{PORT});
"#;

/// A runner without root, whose environments share the network of the machine.
struct SharedNetwork {
    hosting: Hosting,
    server: String,
    runner: Process,
    folder: tempfile::TempDir,
}

impl SharedNetwork {
    async fn new(suite: &Suite) -> Self {
        let fake = FakeRunner::new(suite).await;
        let folder = tempfile::tempdir().unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), mode).unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, &fake.token).unwrap();
        let arguments = [
            format!("--project-url=http://{}", suite.address),
            format!("--agent-token-file={}", token.display()),
            format!("--data-dir={}", folder.path().join("work").display()),
        ];
        let log = folder.path().join("log");
        let runner =
            Process::start_unprivileged("tenantry-runner", &arguments, folder.path(), &log);
        let healthy =
            "select count(*) from project.server where org_id is not null and health = 'healthy'";
        eventually("a heartbeat", async || (suite.count(healthy).await == 1).then_some(())).await;
        fake.hosting.repository.write("taker.pl", TAKER);
        Self { hosting: fake.hosting, server: fake.server, runner, folder }
    }

    /// Creates an environment, and deploys a page with a command; returns its id and the task.
    async fn deploy(&self, name: &str, run: &str) -> (String, serde_json::Value) {
        let manifest = format!("[run]\ncommand = '''{run}'''\n[health]\ntimeout_s = 5\n");
        self.hosting.repository.write("tenantry.toml", &manifest);
        self.hosting.repository.commit(name);
        let create = json!({ "name": name, "serverId": self.server });
        let id = self.hosting.create_environment(create).await;
        let task = self.hosting.run_task("Deploy", &id, json!({})).await;
        (id, task)
    }

    async fn url(&self, id: &str) -> String {
        text(&self.hosting.get(id).await["url"])
    }

    async fn finish(self, suite: Suite) {
        self.runner.kill();
        suite.finish().await;
        testkit::stop_deployments_of_runner(&self.folder.path().join("work"));
    }
}

/// While an environment is stopped, the program of another one listens on its port. After its start its URL
/// shows its own page.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_does_not_reuse_a_port_that_another_program_has_taken() {
    let suite = Suite::start().await;
    let shared = SharedNetwork::new(&suite).await;
    let (own, task) = shared.deploy("own", "exec perl server.pl").await;
    assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{task}");
    let (other, task) = shared.deploy("other", "exec perl taker.pl").await;
    assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{task}");
    let (url, other_url) = (shared.url(&own).await, shared.url(&other).await);
    assert!(response(&url, "/").await.starts_with("own\n"));

    shared.hosting.run_task("Stop", &own, json!({})).await;
    let port = url.rsplit_once(':').unwrap().1;
    response(&other_url, &format!("/take/{port}")).await;
    let taken = async || visit(&url, "/").await.filter(|it| it.starts_with("other"));
    eventually("the port to be taken", taken).await;

    let task = shared.hosting.run_task("Start", &own, json!({})).await;
    assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{task}");
    let page = shared.hosting.page(&own, "/").await;
    assert!(page.starts_with("own\n"), "{page}");

    // A restart directly after the health checks of the first start.
    let task = shared.hosting.run_task("Restart", &own, json!({})).await;
    assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{task}");
    assert!(shared.hosting.page(&own, "/").await.starts_with("own\n"));
    shared.finish(suite).await;
}

/// A program that never listens is not healthy because another program listens on its port.
#[tokio::test(flavor = "multi_thread")]
async fn a_response_of_another_program_does_not_count() {
    let suite = Suite::start().await;
    let shared = SharedNetwork::new(&suite).await;
    let (other, task) = shared.deploy("other", "exec perl taker.pl").await;
    assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{task}");
    let address = shared.url(&other).await;
    let address = address.trim_start_matches("http://");
    let never_listens = format!(
        r#"perl -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new("{address}") or die "$!";
        print $s "GET /take/$ENV{{PORT}} HTTP/1.1\r\n\r\n"; <$s>'; exec sleep 600"#
    );
    let (own, task) = shared.deploy("own", &never_listens).await;
    assert_eq!(task["state"], "TASK_STATE_FAILED", "{task}");
    let error = text(&task["errorMessage"]);
    assert!(error.contains("does not listen on $HOST:$PORT"), "{error}");
    let health = format!("{ENVIRONMENTS}/GetEnvironmentHealth");
    let health =
        shared.hosting.owner().call_ok(&health, shared.hosting.request(&own, json!({}))).await;
    assert_ne!(health["health"]["httpOk"], true, "{health}");
    shared.finish(suite).await;
}
