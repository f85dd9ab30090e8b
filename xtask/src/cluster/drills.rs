//! Drills on the cluster: the demo, attacks on the network policies, lost pods, and restarts under load.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use super::{Cluster, NAMESPACE, output, write};
use crate::Outcome;

/// Workloads that lose a pod during a demo. The last ones have one pod, so that calls fail until it is back.
const REPLICATED: [&str; 7] =
    ["identity", "project", "invitation", "audit", "discovery", "gateway", "nats"];
const SINGLE: [&str; 3] = ["runner", "mail", "postgres"];

/// Ports that the attack tries on every pod.
const PORTS: [u16; 10] = [443, 1025, 1080, 4222, 5432, 6222, 8081, 8222, 30_000, 50_051];

/// Largest number of calls of a method that fail with UNAVAILABLE during the restarts of all workloads.
const UNAVAILABLE_MAX: u32 = 2;

/// Longest duration of a demo.
const DEMO_MAX: Duration = Duration::from_secs(180);

/// Pod of the attack; the name of its namespace is that of the pod.
const STRAY: &str = "\
apiVersion: v1
kind: Pod
metadata: { name: stray }
spec:
  automountServiceAccountToken: false
  containers:
    - { name: stray, image: \"docker.io/library/tenantry-pause:1\", imagePullPolicy: Never }
";

/// Runs the demo through the gateway.
pub(super) fn demo(cluster: &Cluster) -> Outcome {
    let started = Instant::now();
    let log = finish_demo(cluster, &start_demo(cluster)?)?;
    if !log.contains("All steps succeeded") {
        return Err(format!("the demo failed:\n{log}"));
    }
    eprintln!("xtask: the demo took {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Starts a demo; returns the name of its job.
fn start_demo(cluster: &Cluster) -> Outcome<String> {
    let nanoseconds =
        std::time::UNIX_EPOCH.elapsed().map_err(|error| error.to_string())?.as_nanos();
    let name = format!("demo-{nanoseconds}");
    cluster.read(&["create", "job", "--from=cronjob/demo", &name])?;
    Ok(name)
}

/// Waits for the end of a demo; returns its log.
fn finish_demo(cluster: &Cluster, name: &str) -> Outcome<String> {
    let job = format!("job/{name}");
    let deadline = Instant::now() + DEMO_MAX;
    let conditions = "jsonpath={.status.conditions[*].type}";
    while cluster.read(&["get", &job, "--output", conditions])?.is_empty()
        && Instant::now() < deadline
    {
        thread::sleep(Duration::from_millis(500));
    }
    let log = cluster.read(&["logs", &job, "--tail=200"])?;
    cluster.read(&["delete", &job, "--wait=false"])?;
    Ok(log)
}

/// Tries every port of every pod from a pod of another namespace and from one of the same: only the gateway
/// accepts.
pub(super) fn attack(cluster: &Cluster) -> Outcome {
    let stray = "stray";
    cluster.kubectl(&["create", "namespace", stray])?;
    for namespace in [stray, NAMESPACE] {
        cluster.create(namespace, STRAY)?;
        let pod = [
            "--namespace",
            namespace,
            "wait",
            "pod/stray",
            "--for=condition=Ready",
            "--timeout=60s",
        ];
        cluster.kubectl(&pod)?;
    }
    // The firewall has the new pods after a moment; until then they have no policies.
    thread::sleep(Duration::from_secs(10));
    let pods = "jsonpath={range .items[*]}{.metadata.labels.app\\.kubernetes\\.io/name} \
                {.status.podIP}{\"\\n\"}{end}";
    let running = ["get", "pods", "--field-selector=status.phase=Running", "--output", pods];
    let pods = cluster.read(&running)?;
    let pods: Vec<_> = pods.lines().filter(|it| !it.starts_with(' ')).collect();
    for (namespace, expected) in [(stray, &["gateway:50051"][..]), (NAMESPACE, &[])] {
        let open = open_ports(cluster, namespace, &pods)?;
        let open: BTreeSet<_> = open.lines().collect();
        // Without the gateway, the refusals would show nothing.
        if open != expected.iter().copied().collect() {
            return Err(format!("a pod in the namespace {namespace} connects to {open:?}"));
        }
    }
    let tried = 2 * pods.len() * PORTS.len();
    eprintln!(
        "xtask: of {tried} connections from stray pods, only those to the gateway were accepted"
    );
    cluster.kubectl(&["delete", "namespace", stray, "--wait=false"])?;
    cluster.read(&["delete", "pod", "stray", "--wait=false", "--grace-period=1"])?;
    Ok(())
}

/// Returns the addresses that the stray pod of a namespace can connect to, one on a line: `gateway:50051`.
fn open_ports(cluster: &Cluster, namespace: &str, pods: &[&str]) -> Outcome<String> {
    let ports = PORTS.map(|it| it.to_string()).join(" ");
    // The ports of a pod at the same time, because a policy can make each attempt last until its time-out.
    let script = format!(
        "while read name address; do for port in {ports}; do \
         (/bin/busybox nc -w 2 $address $port < /dev/null > /dev/null 2>&1 && echo $name:$port) & \
         done; wait; done <<EOF\n{}\nEOF\n",
        pods.join("\n")
    );
    let mut exec = cluster.command("kubectl");
    exec.args([
        "--namespace",
        namespace,
        "exec",
        "stray",
        "--",
        "/bin/busybox",
        "sh",
        "-c",
        &script,
    ]);
    output(&mut exec, "kubectl exec")
}

/// Deletes a pod of each workload while a demo runs. The next demo must succeed; with replicas, this one,
/// too.
pub(super) fn delete_pods(cluster: &Cluster) -> Outcome {
    for workload in REPLICATED.iter().chain(&SINGLE) {
        let demo = start_demo(cluster)?;
        thread::sleep(Duration::from_secs(2));
        let selector = format!("--selector=app.kubernetes.io/name={workload}");
        let pods = cluster.read(&["get", "pods", &selector, "--output", "name"])?;
        let pod = pods.lines().next().ok_or_else(|| format!("{workload} has no pod"))?;
        let started = Instant::now();
        let deleted = uid(cluster, pod)?;
        cluster.read(&["delete", pod, "--wait=false"])?;
        let log = finish_demo(cluster, &demo)?;
        // The pod of a StatefulSet is replaced by one of the same name.
        while uid(cluster, pod)? == deleted {
            thread::sleep(Duration::from_millis(500));
        }
        cluster.wait_for_rollouts()?;
        let is_green = log.contains("All steps succeeded");
        let seconds = started.elapsed().as_secs_f64();
        let result = if is_green { "succeeded" } else { "failed" };
        eprintln!(
            "xtask: {pod} was deleted and replaced in {seconds:.0} s; the demo beside it {result}"
        );
        if !is_green && REPLICATED.contains(workload) {
            return Err(format!("the demo failed beside the deletion of {pod}:\n{log}"));
        }
        demo_after(cluster, workload)?;
    }
    Ok(())
}

/// Returns the unique id of a pod; nothing if there is no pod of this name.
fn uid(cluster: &Cluster, pod: &str) -> Outcome<String> {
    cluster.read(&["get", pod, "--ignore-not-found", "--output", "jsonpath={.metadata.uid}"])
}

fn demo_after(cluster: &Cluster, workload: &str) -> Outcome {
    demo(cluster).map_err(|error| format!("after the deletion of a pod of {workload}: {error}"))
}

/// Restarts every workload of the suite, one after the other, under calls that read and change.
pub(super) fn restart_under_load(cluster: &Cluster) -> Outcome {
    let loads = start_loads(cluster)?;
    let started = Instant::now();
    for workload in [
        "deployment/identity",
        "deployment/project",
        "deployment/invitation",
        "statefulset/audit",
        "deployment/discovery",
        "deployment/gateway",
    ] {
        cluster.read(&["rollout", "restart", workload])?;
        cluster.read(&["rollout", "status", workload, "--timeout=300s"])?;
    }
    eprintln!("xtask: all workloads were restarted in {:.0} s", started.elapsed().as_secs_f64());
    finish_loads(loads, "the restarts")
}

/// Ends the calls; fails if some have failed during an operation.
pub(super) fn finish_loads(loads: Vec<Load>, operation: &str) -> Outcome {
    // All of them, because each is a process.
    let finished: Vec<_> = loads.into_iter().map(|it| it.finish(operation)).collect();
    finished.into_iter().collect()
}

/// Calls of one method from connections that stay open.
pub(super) struct Load {
    method: &'static str,
    ghz: Child,
    report: PathBuf,
}

/// Starts calls of the owner of an organization that a demo creates.
pub(super) fn start_loads(cluster: &Cluster) -> Outcome<Vec<Load>> {
    let log = finish_demo(cluster, &start_demo(cluster)?)?;
    let value = |start: &str, end: char| {
        let rest = log.rsplit_once(start).map(|(_, rest)| rest).unwrap_or_default();
        rest.split(end).next().unwrap_or_default().trim().to_owned()
    };
    let token = value("export TOKEN=", '\n');
    let org = value("{\"org_id\": \"", '"');
    let read = format!("{{\"org_id\":\"{org}\"}}");
    let change = format!(
        "{{\"org_id\":\"{org}\",\"name\":\"Load {{{{.RequestNumber}}}}\",\
         \"update_mask\":{{\"paths\":[\"name\"]}},\"request_id\":\"{{{{newUUID}}}}\"}}"
    );
    let start = |method, rate, data: &str| Load::start(cluster, method, rate, data, &token);
    Ok(vec![
        start("tenantry.identity.v1.OrganizationService/GetOrganization", "30", &read)?,
        start("tenantry.project.v1.ProjectService/ListProjects", "10", &read)?,
        start("tenantry.audit.v1.AuditService/ListEntries", "5", &read)?,
        start("tenantry.identity.v1.OrganizationService/UpdateOrganization", "10", &change)?,
    ])
}

impl Load {
    /// Starts `rate` calls per second through the gateway.
    fn start(
        cluster: &Cluster,
        method: &'static str,
        rate: &str,
        data: &str,
        token: &str,
    ) -> Outcome<Self> {
        let authority = cluster.folder.join("gateway-ca.pem");
        let template = "go-template={{index .data \"ca.crt\" | base64decode}}";
        write(&authority, &cluster.read(&["get", "secret", "tls-gateway", "--output", template])?)?;
        let address = ["get", "service", "gateway", "--output", "jsonpath={.spec.clusterIP}"];
        let address = format!("{}:50051", cluster.read(&address)?);
        let report = cluster.folder.join(format!("{}.json", method.replace('/', ".")));
        let metadata = format!("{{\"authorization\":\"Bearer {token}\"}}");
        let mut ghz = cluster.command("ghz");
        ghz.arg("--cacert").arg(authority).args(["--cname", "gateway", "--timeout", "20s"]);
        ghz.args(["--rps", rate, "--concurrency", "8", "--connections", "4"]);
        // Until the interrupt; then calls in flight end.
        ghz.args(["--duration", "15m", "--duration-stop", "wait"]);
        ghz.args(["--format", "json", "--output"]).arg(&report);
        ghz.args(["--metadata", &metadata, "--call", method, "--data", data, &address]);
        let ghz = ghz.spawn().map_err(|error| format!("ghz cannot be started: {error}"))?;
        Ok(Self { method, ghz, report })
    }

    /// Ends the calls; fails if one has failed.
    fn finish(mut self, operation: &str) -> Outcome {
        let mut interrupt = Command::new("kill");
        output(interrupt.args(["-INT", &self.ghz.id().to_string()]), "kill")?;
        self.ghz.wait().map_err(|error| error.to_string())?;
        let report = fs::read_to_string(&self.report).map_err(|error| error.to_string())?;
        let statuses = statuses(&report);
        eprintln!("xtask: {} {statuses}", self.method);
        if !are_allowed(statuses) {
            return Err(format!("calls of {} failed during {operation}: {statuses}", self.method));
        }
        Ok(())
    }
}

/// Returns the numbers of calls by status in a report of ghz: `"OK":99,"Unavailable":1`.
fn statuses(report: &str) -> &str {
    let (_, rest) = report.split_once("\"statusCodeDistribution\":{").unwrap_or_default();
    rest.split('}').next().unwrap_or_default()
}

/// Returns true if enough calls succeeded. A call can meet the end of its connection; its client repeats it.
fn are_allowed(statuses: &str) -> bool {
    statuses.split(',').all(|it| match it.split_once(':') {
        Some(("\"OK\"", count)) => count.parse().is_ok_and(|it: u32| it > 100),
        Some(("\"Unavailable\"", count)) => {
            count.parse().is_ok_and(|it: u32| it <= UNAVAILABLE_MAX)
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_of_a_report_are_found_and_compared() {
        let report =
            r#"{"count":3882,"statusCodeDistribution":{"OK":3881,"Unavailable":1},"rps":29}"#;
        assert_eq!(statuses(report), r#""OK":3881,"Unavailable":1"#);
        assert!(are_allowed(statuses(report)));
        assert!(are_allowed(r#""OK":3881"#));
        for failed in ["", r#""OK":3881,"Internal":1"#, r#""OK":3881,"Unavailable":9"#, r#""OK":7"#]
        {
            assert!(!are_allowed(failed), "{failed}");
        }
    }
}
