//! `deploy/compose.yaml`: secrets, networks, restarts and settings of the containers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use chassis::registry::SERVICES;
use clap::{Args, Command};
use serde_yaml_ng::Value;

use super::{assert_none, root, services};

/// Jobs that end, and the demo, which is started by hand.
const JOBS: [&str; 3] = ["keys", "migrate", "demo"];

/// Environment variables of a client of the suite, which are no settings of a service.
const CLIENT_VARIABLES: [&str; 2] = ["TENANTRY_MAIL_API", "TENANTRY_DEMO_WORK_DIR"];

/// Containers by name.
fn containers() -> BTreeMap<String, Value> {
    let text = fs::read_to_string(root().join("deploy/compose.yaml")).unwrap();
    let mut file: Value = serde_yaml_ng::from_str(&text).unwrap();
    // Once for the containers, and again for what they were merged from.
    file.apply_merge().unwrap();
    file.apply_merge().unwrap();
    serde_yaml_ng::from_value(file["services"].clone()).unwrap()
}

fn environment(container: &Value) -> BTreeMap<String, String> {
    let variables = container.get("environment").cloned().unwrap_or_default();
    serde_yaml_ng::from_value::<Option<_>>(variables).unwrap().unwrap_or_default()
}

fn texts(value: &Value) -> Vec<String> {
    serde_yaml_ng::from_value(value.clone()).unwrap_or_default()
}

/// Sources of the mounts of a container: volumes and paths.
fn mounts(container: &Value) -> BTreeSet<String> {
    let source = |it: String| it.split(':').next().unwrap().to_owned();
    texts(&container["volumes"]).into_iter().map(source).collect()
}

#[test]
fn every_container_has_an_image_and_comes_back_after_a_restart() {
    for (name, container) in containers() {
        assert!(container["image"].is_string(), "{name} has no image");
        let restart = container["restart"].as_str().unwrap_or_default();
        let expected = if JOBS.contains(&&*name) { "no" } else { "unless-stopped" };
        assert_eq!(restart, expected, "restart of {name}");
    }
}

#[test]
fn every_service_has_a_container_with_its_program_and_its_health_check() {
    let containers = containers();
    for service in services().chain(["runner"]) {
        let container = &containers[service];
        let program = if service == "runner" { "tenantry" } else { service };
        assert_eq!(texts(&container["command"])[0], program);
        let check = texts(&container["healthcheck"]["test"]);
        assert_eq!(check, ["CMD", program, "healthcheck"], "{service}");
    }
}

/// A container mounts the certificate of one service. Only the job that creates them sees all.
#[test]
fn a_container_sees_no_key_of_another_service() {
    let mut violations = vec![];
    for (name, container) in containers() {
        let allowed: BTreeSet<String> = match &*name {
            "keys" => continue,
            "postgres" | "nats" | "mail" => [name.clone()].into(),
            "runner" => {
                ["tls-runner", "runner", "demo", "/sys/fs/cgroup"].map(str::to_owned).into()
            }
            "demo" => ["authority", "demo"].map(str::to_owned).into(),
            "migrate" => ["secret-key", "audit-key"].map(str::to_owned).into(),
            "audit" => ["tls-audit", "secret-key", "audit-key", "audit"].map(str::to_owned).into(),
            name => [format!("tls-{name}"), "secret-key".to_owned()].into(),
        };
        let excess: Vec<_> = mounts(&container).difference(&allowed).cloned().collect();
        violations.extend(excess.iter().map(|it| format!("{name} mounts {it}")));
    }
    assert_none(&violations, "a container mounts its own files only");
}

/// Certificates of other systems would let their holders block organizations or raise alerts.
#[test]
fn only_services_of_the_suite_get_certificates() {
    let job = containers()["keys"].clone();
    let script = texts(&job["command"]).concat();
    let names = script.split_once("--services ").unwrap().1.split_whitespace().next().unwrap();
    let expected: Vec<_> = SERVICES.iter().map(|it| it.name).chain(["runner"]).collect();
    assert_eq!(names.split(',').collect::<Vec<_>>(), expected);
}

/// The runner, and so code that is deployed, reaches the project service only.
#[test]
fn the_runner_reaches_the_project_service_only() {
    let containers = containers();
    let environment = environment(&containers["runner"]);
    for variable in ["DATABASE_URL", "NATS_URL", "TENANTRY_KEY_FILE"] {
        assert!(!environment.contains_key(variable), "the runner has {variable}");
    }
    assert_eq!(environment.get("TENANTRY_ALLOW_WEAK_ISOLATION"), None, "isolation is required");
    let networks = texts(&containers["runner"]["networks"]);
    let in_its_networks: Vec<_> = containers
        .iter()
        .filter(|(_, it)| texts(&it["networks"]).iter().any(|it| networks.contains(it)))
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(in_its_networks, ["project", "runner"]);
}

/// The base URLs name the published ports of the services that serve their paths: the pages of links, and
/// push webhooks.
#[test]
fn base_urls_reach_the_service_that_serves_them() {
    let containers = containers();
    for (service, variable) in
        [("invitation", "TENANTRY_BASE_URL"), ("project", "TENANTRY_PUSH_URL")]
    {
        let port = texts(&containers[service]["ports"])[0].split(':').next().unwrap().to_owned();
        for (name, container) in &containers {
            let Some(url) = environment(container).remove(variable) else { continue };
            assert_eq!(url, format!("https://localhost:{port}"), "{variable} of {name}");
        }
        let sets = |name: &str| environment(&containers[name]).contains_key(variable);
        assert!(sets(service), "{service} has no {variable}");
    }
}

#[test]
fn every_variable_is_a_setting() {
    let command = chassis::Config::augment_args(Command::new("settings"));
    let variables = command.get_arguments().filter_map(|it| it.get_env()?.to_str());
    let known: BTreeSet<_> = variables.chain(CLIENT_VARIABLES).collect();
    let mut violations = vec![];
    for (name, container) in containers() {
        // Images of others.
        if ["postgres", "nats", "mail"].contains(&&*name) {
            continue;
        }
        let environment = environment(&container);
        let unknown = environment.keys().filter(|it| !known.contains(it.as_str()));
        violations.extend(unknown.map(|it| format!("{name}: {it}")));
    }
    assert_none(&violations, "settings of deploy/compose.yaml exist");
}
