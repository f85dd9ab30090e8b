//! Connections that the network policies of `deploy/kubernetes` allow between the pods of the overlay `dev`.

use std::collections::{BTreeMap, BTreeSet};

use serde_yaml_ng::Value;

use super::{kind, labels, list, objects, template, text, texts, workloads};

/// Services that call each other, and connect to PostgreSQL and NATS.
const SERVICES: [&str; 4] = ["identity", "project", "invitation", "audit"];

/// Ports that the pods listen on, by workload; the base of what can be connected to.
const PORTS: [u64; 9] = [50_051, 8_081, 5_432, 4_222, 6_222, 8_222, 1_025, 1_080, 30_000];

/// A pod with these labels, or a peer in another namespace, which has none.
type Labels = BTreeMap<String, String>;

/// Returns true if a selector (`matchLabels`, `matchExpressions` with `In`) selects a pod.
fn selects(selector: &Value, pod: &Labels) -> bool {
    let equal = labels(&selector["matchLabels"]);
    let has = |key: &str, value: &str| pod.get(key).is_some_and(|it| it == value);
    equal.iter().all(|(key, value)| has(key, value))
        && list(&selector["matchExpressions"]).iter().all(|it| {
            assert_eq!(text(it, "operator"), "In", "this test evaluates no other operator");
            texts(&it["values"]).iter().any(|value| has(text(it, "key"), value))
        })
}

/// Returns true if a rule allows a port: if it names none, it allows all.
fn has_port(rule: &Value, port: u64) -> bool {
    rule["ports"].is_null()
        || list(&rule["ports"]).iter().any(|it| {
            let first = it["port"].as_u64().unwrap();
            let last = it["endPort"].as_u64().unwrap_or(first);
            (first..=last).contains(&port)
        })
}

/// Returns true if a rule allows a peer. `direction` is `from` or `to`. `None`: a pod of another namespace.
fn has_peer(rule: &Value, direction: &str, peer: Option<&Labels>) -> bool {
    rule[direction].is_null()
        || list(&rule[direction]).iter().any(|it| {
            assert!(it["namespaceSelector"].is_null(), "this test evaluates one namespace");
            // Blocks of addresses are public ones.
            let selector = &it["podSelector"];
            !selector.is_null() && peer.is_some_and(|peer| selects(selector, peer))
        })
}

/// Returns true if the policies of a pod allow a connection in one direction.
fn allows(policies: &[Value], pod: &Labels, key: &str, peer: Option<&Labels>, port: u64) -> bool {
    let (rules, direction) = if key == "Ingress" { ("ingress", "from") } else { ("egress", "to") };
    let applies = |it: &&Value| {
        texts(&it["spec"]["policyTypes"]).contains(&key) && selects(&it["spec"]["podSelector"], pod)
    };
    let mut applicable = policies.iter().filter(applies).peekable();
    assert!(applicable.peek().is_some(), "a policy denies by default");
    let mut rules = applicable.flat_map(|it| list(&it["spec"][rules]));
    rules.any(|it| has_port(it, port) && has_peer(it, direction, peer))
}

/// Every pair of pods and every port: what is allowed is what the suite needs.
#[test]
fn pods_connect_to_what_they_need_and_nothing_else() {
    let policies: Vec<_> = objects().into_iter().filter(|it| kind(it) == "NetworkPolicy").collect();
    let workloads = workloads();
    let pods: BTreeMap<_, _> = workloads
        .iter()
        .map(|(name, object)| (name.as_str(), labels(&template(object)["metadata"]["labels"])))
        .collect();
    let unknown = Labels::new();
    let sources: Vec<_> = pods.iter().map(|(name, labels)| (*name, labels)).collect();
    let mut allowed = BTreeSet::new();
    for (source, source_labels) in sources.iter().copied().chain([("unlabelled", &unknown)]) {
        for (target, target_labels) in &pods {
            for port in PORTS {
                let leaves = allows(&policies, source_labels, "Egress", Some(target_labels), port);
                let enters = allows(&policies, target_labels, "Ingress", Some(source_labels), port);
                if leaves && enters {
                    allowed.insert(format!("{source} -> {target}:{port}"));
                }
            }
        }
    }
    // From other namespaces, whose policies are not known.
    for (target, target_labels) in &pods {
        for port in PORTS {
            if allows(&policies, target_labels, "Ingress", None, port) {
                allowed.insert(format!("elsewhere -> {target}:{port}"));
            }
        }
    }
    let mut expected: BTreeSet<String> = [
        "gateway -> discovery:50051",
        "runner -> project:50051",
        "migrate -> postgres:5432",
        "nats -> nats:6222",
        "identity -> mail:1025",
        "invitation -> mail:1025",
        "demo -> gateway:50051",
        "demo -> mail:1080",
        // The job may connect to every API server, and these accept every client.
        "cluster-secrets -> gateway:50051",
        "cluster-secrets -> runner:30000",
        "elsewhere -> gateway:50051",
        "elsewhere -> runner:30000",
    ]
    .map(str::to_owned)
    .into();
    for service in SERVICES {
        for client in ["gateway", "discovery"].iter().chain(&SERVICES) {
            expected.insert(format!("{client} -> {service}:50051"));
        }
        expected.insert(format!("{service} -> postgres:5432"));
        expected.insert(format!("{service} -> nats:4222"));
    }
    assert_eq!(allowed, expected);
}
