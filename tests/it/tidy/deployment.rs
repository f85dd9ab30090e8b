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
const JOBS: [&str; 4] = ["keys", "certificates", "migrate", "demo"];

/// Containers of the profile `observability`.
const OBSERVABILITY: [&str; 4] = ["prometheus", "alertmanager", "grafana", "collector"];

/// Second replicas of the services, of the profile `replicas`.
const REPLICAS: [&str; 4] = ["identity-2", "project-2", "invitation-2", "audit-2"];

/// Images of others.
const FOREIGN: [&str; 8] =
    ["postgres", "nats", "mail", "gateway", "prometheus", "alertmanager", "grafana", "collector"];

/// Environment variables of a client of the suite, which are no settings of a service.
const CLIENT_VARIABLES: [&str; 3] =
    ["TENANTRY_ENDPOINT", "TENANTRY_MAIL_API", "TENANTRY_DEMO_WORK_DIR"];

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
    let variables =
        serde_yaml_ng::from_value::<Option<BTreeMap<String, Option<String>>>>(variables);
    // A variable without a value has that of the environment of compose.
    let variables = variables.unwrap().unwrap_or_default().into_iter();
    variables.map(|(name, value)| (name, value.unwrap_or_default())).collect()
}

fn texts(value: &Value) -> Vec<String> {
    serde_yaml_ng::from_value(value.clone()).unwrap_or_default()
}

/// Names of the networks of a container, with or without aliases.
fn networks(container: &Value) -> Vec<String> {
    let networks = &container["networks"];
    let with_aliases = networks.as_mapping().map(|it| it.keys().filter_map(Value::as_str));
    with_aliases.map_or_else(|| texts(networks), |names| names.map(str::to_owned).collect())
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
            "certificates" => continue,
            "postgres" | "nats" | "mail" | "prometheus" => [name.clone()].into(),
            "keys" | "migrate" => ["secret-key", "audit-key"].map(str::to_owned).into(),
            "gateway" | "discovery" => [format!("tls-{name}")].into(),
            "runner" => {
                ["tls-runner", "runner", "demo", "/sys/fs/cgroup"].map(str::to_owned).into()
            }
            "demo" => ["authority", "demo"].map(str::to_owned).into(),
            "audit" | "audit-2" => {
                ["tls-audit", "secret-key", "audit-key", &*name].map(str::to_owned).into()
            }
            name => {
                let service = name.trim_end_matches("-2");
                [format!("tls-{service}"), "secret-key".to_owned()].into()
            }
        };
        let excess: Vec<_> = mounts(&container).difference(&allowed).cloned().collect();
        violations.extend(excess.iter().map(|it| format!("{name} mounts {it}")));
    }
    assert_none(&violations, "a container mounts its own files only");
}

/// Certificates of other systems would let their holders block organizations or raise alerts.
#[test]
fn only_services_of_the_suite_get_certificates() {
    let arguments = texts(&containers()["certificates"]["command"]);
    let names = arguments.iter().find_map(|it| it.strip_prefix("--services=")).unwrap();
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
    let of_the_runner = networks(&containers["runner"]);
    let in_its_networks: Vec<_> = containers
        .iter()
        .filter(|(_, it)| networks(it).iter().any(|it| of_the_runner.contains(it)))
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(in_its_networks, ["project", "project-2", "runner"]);
}

/// The services trust the addresses that the gateway forwards, so no other client is in its network.
#[test]
fn only_the_gateway_is_in_the_network_of_trusted_proxies() {
    let containers = containers();
    let file = fs::read_to_string(root().join("deploy/compose.yaml")).unwrap();
    let file: Value = serde_yaml_ng::from_str(&file).unwrap();
    let subnet = file["networks"]["frontend"]["ipam"]["config"][0]["subnet"].as_str().unwrap();
    for service in services() {
        let trusted = environment(&containers[service]).remove("TENANTRY_TRUSTED_PROXIES");
        assert_eq!(trusted.as_deref(), Some(subnet), "{service}");
    }
    let in_frontend = containers
        .iter()
        .filter(|(_, container)| networks(container).contains(&"frontend".to_owned()));
    let names: BTreeSet<_> = in_frontend.map(|(name, _)| name.as_str()).collect();
    let expected: BTreeSet<_> =
        services().chain(["gateway", "discovery"]).chain(REPLICAS).collect();
    assert_eq!(names, expected);
}

/// Programs of the suite run without a writable file system, capabilities or new privileges, except for the
/// runner, which isolates deployed code.
#[test]
fn containers_of_the_suite_are_hardened() {
    for (name, container) in containers() {
        if ["postgres", "nats", "mail", "runner", "demo"].contains(&&*name) {
            continue;
        }
        assert_eq!(container["read_only"].as_bool(), Some(true), "{name}");
        assert_eq!(texts(&container["cap_drop"]), ["ALL"], "{name}");
        assert_eq!(texts(&container["security_opt"]), ["no-new-privileges:true"], "{name}");
    }
}

/// The base URL is that of the gateway, whose port is the only one of the suite that is published.
#[test]
fn the_base_url_is_that_of_the_gateway() {
    let containers = containers();
    let port = texts(&containers["gateway"]["ports"])[0].rsplit_once(':').unwrap().0.to_owned();
    for service in services() {
        let url = environment(&containers[service]).remove("TENANTRY_BASE_URL");
        assert_eq!(url, Some(format!("https://localhost:{port}")), "{service}");
        assert!(containers[service].get("ports").is_none(), "{service} publishes a port");
    }
}

/// The gateway routes every package of the contract to the service that has it.
#[test]
fn the_gateway_routes_every_package() {
    let text = fs::read_to_string(root().join("deploy/Caddyfile")).unwrap();
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    for service in SERVICES {
        for package in service.packages {
            let start = lines.iter().position(|it| *it == format!("handle /{package}.* {{"));
            let route = start.map(|it| lines[it + 1]).unwrap_or_default();
            assert_eq!(route, format!("import service {}", service.name), "{package}");
        }
    }
    // It flushes the headers of an error before the end of the response, which gRPC clients do not accept.
    assert!(!lines.iter().any(|it| it.starts_with("flush_interval")));
}

/// A second replica differs from the first in its networks, and that of the audit service in its journal.
#[test]
fn second_replicas_have_the_configuration_of_the_first_ones() {
    let containers = containers();
    for name in REPLICAS {
        let service = name.trim_end_matches("-2");
        let (mut second, mut first) = (containers[name].clone(), containers[service].clone());
        assert_eq!(texts(&second["profiles"]), ["replicas"], "{name}");
        assert_eq!(networks(&second), networks(&first), "{name}");
        let aliases = &second["networks"]["frontend"]["aliases"];
        assert_eq!(texts(aliases), [service], "{name}");
        for container in [&mut second, &mut first] {
            let keys = container.as_mapping_mut().unwrap();
            for key in ["profiles", "networks", "volumes"] {
                keys.remove(key);
            }
        }
        assert_eq!(second, first, "{name}");
    }
    assert_ne!(mounts(&containers["audit-2"]), mounts(&containers["audit"]), "journals");
}

/// Monitoring is not started by default, reaches neither PostgreSQL nor NATS, and has the files of
/// `deploy/observability`.
#[test]
fn monitoring_has_a_profile_and_every_file() {
    let containers = containers();
    let mut sources = BTreeSet::new();
    for name in OBSERVABILITY {
        let container = &containers[name];
        assert_eq!(texts(&container["profiles"]), ["observability"], "{name}");
        assert_eq!(texts(&container["networks"]), ["monitoring"], "{name}");
        for port in texts(&container["ports"]) {
            assert!(port.starts_with("127.0.0.1:"), "{name}: {port}");
        }
        let configs = container["configs"].as_sequence().unwrap();
        sources.extend(configs.iter().map(|it| it["source"].as_str().unwrap().to_owned()));
    }
    let file = fs::read_to_string(root().join("deploy/compose.yaml")).unwrap();
    let file: Value = serde_yaml_ng::from_str(&file).unwrap();
    let path = |source: &String| file["configs"][source]["file"].as_str().unwrap().to_owned();
    let provided: BTreeSet<_> = sources.iter().map(path).collect();
    let mut expected = BTreeSet::new();
    for folder in ["observability", "observability/grafana", "observability/dashboards"] {
        for entry in fs::read_dir(root().join("deploy").join(folder)).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_file() && name != "alerts_test.yaml" {
                expected.insert(format!("{folder}/{name}"));
            }
        }
    }
    assert_eq!(provided, expected);
}

#[test]
fn every_variable_is_a_setting() {
    let command = chassis::Config::augment_args(Command::new("settings"));
    let variables = command.get_arguments().filter_map(|it| it.get_env()?.to_str());
    let known: BTreeSet<_> = variables.chain(CLIENT_VARIABLES).collect();
    let mut violations = vec![];
    for (name, container) in containers() {
        if FOREIGN.contains(&&*name) {
            continue;
        }
        let environment = environment(&container);
        let unknown = environment.keys().filter(|it| !known.contains(it.as_str()));
        violations.extend(unknown.map(|it| format!("{name}: {it}")));
    }
    assert_none(&violations, "settings of deploy/compose.yaml exist");
}
