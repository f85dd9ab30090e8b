//! `cargo xtask cluster`: rolls `deploy/kubernetes` out on a Kubernetes cluster of one node that it compiles
//! and starts, and checks it: the demo, network policies, lost pods, restarts, an upgrade under load, and
//! the Helm chart, which makes the same objects. Needs root on Debian, Go, and a container engine.

mod drills;
mod manifests;
mod node;
mod upgrade;

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::Instant,
};

use crate::{
    Outcome,
    containers::{self, Programs},
    run,
};

/// Namespace of the overlays.
const NAMESPACE: &str = "tenantry";

/// Starts the cluster, rolls the suite out, checks it, and removes everything.
pub(crate) fn check(programs: Programs) -> Outcome {
    node::need()?;
    let _engine = containers::engine::provide()?;
    containers::provide_images(programs)?;
    let mut images = containers::tag_images(env!("CARGO_PKG_VERSION"))?;
    node::build()?;
    let cluster = Cluster { folder: node::folder() };
    images.extend(upgrade::build(programs)?);
    let checked = node::start(&images).and_then(|()| play(&cluster));
    // Also after a failure.
    checked.and(node::stop())
}

fn play(cluster: &Cluster) -> Outcome {
    manifests::check(cluster)?;
    let started = Instant::now();
    cluster.kubectl(&["apply", "--kustomize", "deploy/kubernetes/overlays/dev"])?;
    cluster.wait_for_rollouts()?;
    eprintln!("xtask: all pods are ready after {:.0} s", started.elapsed().as_secs_f64());
    drills::demo(cluster)?;
    drills::attack(cluster)?;
    drills::delete_pods(cluster)?;
    drills::restart_under_load(cluster)?;
    upgrade::upgrade_under_load(cluster)?;
    manifests::install_chart(cluster)?;
    drills::demo(cluster)
}

/// A cluster whose files are in a folder.
struct Cluster {
    folder: PathBuf,
}

impl Cluster {
    /// A program in the network namespace of the node.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--net=/run/netns/tenantry-cluster").arg(self.folder.join("bin").join(program));
        command.current_dir(run::root()).stdin(Stdio::null());
        command.env("KUBECONFIG", self.folder.join("admin.kubeconfig"));
        command
    }

    /// Runs kubectl and prints its output.
    fn kubectl(&self, arguments: &[&str]) -> Outcome {
        let mut command = self.command("kubectl");
        run::finish(command.args(arguments), &format!("kubectl {}", arguments.join(" ")))
    }

    /// Runs kubectl in the namespace of the suite and returns its output.
    fn read(&self, arguments: &[&str]) -> Outcome<String> {
        let mut command = self.command("kubectl");
        output(command.args(["--namespace", NAMESPACE]).args(arguments), &arguments.join(" "))
    }

    /// Creates objects from YAML in a namespace.
    fn create(&self, namespace: &str, yaml: &str) -> Outcome {
        let mut command = self.command("kubectl");
        command.args(["--namespace", namespace, "create", "--filename", "-"]).stdin(Stdio::piped());
        let mut child =
            command.spawn().map_err(|error| format!("kubectl cannot be started: {error}"))?;
        let mut input = child.stdin.take().ok_or("kubectl has no input")?;
        input.write_all(yaml.as_bytes()).map_err(|error| error.to_string())?;
        drop(input);
        let status = child.wait().map_err(|error| error.to_string())?;
        if status.success() { Ok(()) } else { Err("kubectl create failed".to_owned()) }
    }

    /// Waits until the new pods of all workloads are ready.
    fn wait_for_rollouts(&self) -> Outcome {
        let workloads = self.read(&["get", "statefulsets,deployments", "--output", "name"])?;
        for workload in workloads.lines() {
            self.read(&["rollout", "status", workload, "--timeout", "300s"])?;
        }
        Ok(())
    }
}

/// Runs a command and returns its standard output; an error contains what it printed.
fn output(command: &mut Command, name: &str) -> Outcome<String> {
    let output =
        command.output().map_err(|error| format!("`{name}` cannot be started: {error}"))?;
    let Output { status, stdout, stderr } = output;
    let text = String::from_utf8_lossy(&stdout).into_owned();
    if status.success() {
        return Ok(text);
    }
    Err(format!("`{name}` failed: {text}{}", String::from_utf8_lossy(&stderr).trim()))
}

fn write(path: &std::path::Path, text: &str) -> Outcome {
    fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}
