//! Prometheus and Alertmanager as processes, and their command-line tools.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{ReservedPort, eventually};

/// A program with a folder and an HTTP port of its own; killed with the test.
struct Daemon {
    child: Child,
    _folder: TempDir,
    port: ReservedPort,
}

impl Daemon {
    /// Writes files into a new folder, starts a program in it, and waits until it is ready.
    async fn start(name: &str, files: &[(&str, &str)], arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        for (file, text) in files {
            std::fs::write(folder.path().join(file), text).expect("the file can be written");
        }
        let port = ReservedPort::new();
        let log = std::fs::File::create(folder.path().join("log")).expect("the log file");
        let child = daemon_command(name)
            .current_dir(folder.path())
            .arg(format!("--web.listen-address=127.0.0.1:{}", port.number()))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let started = Self { child, _folder: folder, port };
        let ready = started.url("/-/ready");
        eventually(name, async || {
            let response = reqwest::get(&ready).await.ok()?;
            response.status().is_success().then_some(())
        })
        .await;
        started
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port.number())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Directory `/usr` of the unpacked packages.
fn usr() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the checkout");
    root.join(".tools/prometheus/usr")
}

/// A program that finds the files of its package, which is unpacked only, below `/usr/share`: Debian's
/// Alertmanager reads its templates there.
fn daemon_command(name: &str) -> Command {
    let mut command = Command::new("bwrap");
    command.args(["--dev-bind", "/", "/", "--tmpfs", "/usr/share", "--ro-bind"]);
    command.arg(usr().join("share/prometheus")).arg("/usr/share/prometheus");
    command.arg("--die-with-parent").arg(program(name));
    command
}

/// Path of a program of Prometheus or Alertmanager, which `cargo xtask test` installs.
fn program(name: &str) -> PathBuf {
    let program = usr().join("bin").join(name);
    assert!(program.exists(), "{name} is not installed; run `cargo xtask test`");
    program
}

/// Runs `promtool` or `amtool` in a folder.
pub fn run_prometheus_tool(name: &str, arguments: &[&str], folder: &Path) -> Output {
    let output = Command::new(program(name)).current_dir(folder).args(arguments).output();
    output.expect("the program runs")
}

/// An Alertmanager that sends each alert in a request of its own, within a second.
pub struct Alertmanager(Daemon);

impl Alertmanager {
    /// Starts a server that sends alerts, and their ends, to a webhook.
    pub async fn start(webhook_url: &str) -> Self {
        let config = format!(
            "route: {{ receiver: test, group_by: ['...'], group_wait: 0s, group_interval: 1s, \
             repeat_interval: 1h }}\n\
             receivers: [{{ name: test, webhook_configs: [{{ url: '{webhook_url}' }}] }}]\n"
        );
        let arguments =
            ["--config.file=config.yaml", "--storage.path=data", "--cluster.listen-address="];
        let files = [("config.yaml", config.as_str())];
        Self(Daemon::start("prometheus-alertmanager", &files, &arguments).await)
    }
}

/// A Prometheus server that scrapes its targets, and evaluates its rules, each second.
pub struct Prometheus(Daemon);

impl Prometheus {
    /// Starts a server with a file of rules. `targets`: addresses with `/metrics`, `127.0.0.1:8081`.
    pub async fn start(targets: &[String], rules: &str, alertmanager: &Alertmanager) -> Self {
        let config = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\n\
             rule_files: [rules.yaml]\n\
             alerting: {{ alertmanagers: [{{ static_configs: [{{ targets: ['127.0.0.1:{}'] }}] }}] }}\n\
             scrape_configs: [{{ job_name: tenantry, honor_labels: true, \
             static_configs: [{{ targets: {targets:?} }}] }}]\n",
            alertmanager.0.port.number(),
        );
        let arguments = [
            "--config.file=config.yaml",
            "--storage.tsdb.path=data",
            "--rules.alert.resend-delay=1s",
        ];
        let files = [("config.yaml", config.as_str()), ("rules.yaml", rules)];
        Self(Daemon::start("prometheus", &files, &arguments).await)
    }

    /// Evaluates an expression now: its series with labels and values. An invalid one is an error.
    pub async fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        // Every byte is escaped, which needs no list of characters.
        let escaped: String = expression.bytes().map(|it| format!("%{it:02X}")).collect();
        let url = self.0.url(&format!("/api/v1/query?query={escaped}"));
        let text = async { reqwest::get(&url).await?.text().await }.await;
        let text = text.map_err(|error| error.to_string())?;
        let answer: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        match answer["data"]["result"].as_array() {
            Some(series) => Ok(series.clone()),
            None => Err(answer["error"].to_string()),
        }
    }
}
