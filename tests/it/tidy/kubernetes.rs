//! `deploy/kubernetes`: objects, settings, secrets, security contexts and network policies. The Helm chart
//! reads the same files.

mod policies;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use chassis::registry::SERVICES;
use clap::{Args, Command};
use serde::Deserialize;
use serde_yaml_ng::{Deserializer, Value};
use testkit::Process;

use super::{assert_none, files, root, services};

const FOLDER: &str = "deploy/kubernetes";

/// Environment variables that are no settings of a service: of the demo, and of other programs.
const OTHER_VARIABLES: [&str; 10] = [
    "TENANTRY_ENDPOINT",
    "TENANTRY_MAIL_API",
    "TENANTRY_DEMO_WORK_DIR",
    "POD_NAME",
    "PGDATA",
    "POSTGRES_DB",
    "POSTGRES_PASSWORD",
    "POSTGRES_USER",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
];

/// Kinds of objects that create pods.
const WORKLOADS: [&str; 5] = ["Deployment", "StatefulSet", "Job", "CronJob", "DaemonSet"];

/// Documents of all YAML files below a folder of [`FOLDER`].
fn documents(folder: &str) -> Vec<Value> {
    let sources = files(&format!("{FOLDER}/{folder}"), &[".yaml"]);
    let parsed = sources.iter().flat_map(|source| {
        Deserializer::from_str(&source.text).map(|document| {
            Value::deserialize(document).unwrap_or_else(|error| panic!("{}: {error}", source.path))
        })
    });
    parsed.collect()
}

/// Objects of the base, of the databases for evaluation, and of the demo. Patches of overlays are none.
fn objects() -> Vec<Value> {
    let is_patch = |it: &Value| is_patch(it);
    let folders = ["base", "backing", "overlays/dev"].into_iter().flat_map(documents);
    folders.filter(|it| kind(it) != "Kustomization" && !is_patch(it)).collect()
}

/// True for a part of an object, which changes one of the base.
fn is_patch(document: &Value) -> bool {
    document["metadata"]["labels"].is_null()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn kind(object: &Value) -> &str {
    text(object, "kind")
}

fn name(object: &Value) -> &str {
    text(&object["metadata"], "name")
}

fn list(value: &Value) -> &[Value] {
    value.as_sequence().map(Vec::as_slice).unwrap_or_default()
}

fn texts(value: &Value) -> Vec<&str> {
    list(value).iter().filter_map(Value::as_str).collect()
}

fn labels(value: &Value) -> BTreeMap<String, String> {
    serde_yaml_ng::from_value(value.clone()).unwrap_or_default()
}

/// Names of the objects of a kind.
fn names(kind_of: &str) -> BTreeSet<String> {
    let objects = objects();
    objects.iter().filter(|it| kind(it) == kind_of).map(|it| name(it).to_owned()).collect()
}

/// Template of the pods that an object creates.
fn template(workload: &Value) -> &Value {
    let spec = &workload["spec"];
    if kind(workload) == "CronJob" {
        &spec["jobTemplate"]["spec"]["template"]
    } else {
        &spec["template"]
    }
}

/// Objects that create pods, by name; a job and the cron job that repeats it are one.
fn workloads() -> BTreeMap<String, Value> {
    let found = objects().into_iter().filter(|it| WORKLOADS.contains(&kind(it)));
    found.map(|it| (name(&it).to_owned(), it)).collect()
}

fn containers(workload: &Value) -> &[Value] {
    list(&template(workload)["spec"]["containers"])
}

/// Every file is part of the kustomization of its folder, and every file of a kustomization exists.
#[test]
fn every_file_is_part_of_its_kustomization() {
    for folder in
        ["base", "backing", "components/cert-manager", "overlays/dev", "overlays/production"]
    {
        let path = root().join(FOLDER).join(folder);
        let file = fs::read_to_string(path.join("kustomization.yaml")).unwrap();
        let file: Value = serde_yaml_ng::from_str(&file).unwrap();
        let mut listed: BTreeSet<&str> = ["kustomization.yaml"].into();
        listed.extend(texts(&file["resources"]).iter().filter(|it| !it.starts_with("..")));
        listed.extend(list(&file["patches"]).iter().filter_map(|it| it["path"].as_str()));
        listed.extend(list(&file["configMapGenerator"]).iter().flat_map(|it| texts(&it["files"])));
        let present = fs::read_dir(path).unwrap().flatten();
        let present: BTreeSet<_> =
            present.map(|it| it.file_name().to_string_lossy().into_owned()).collect();
        assert_eq!(present, listed.iter().map(|it| (*it).to_owned()).collect(), "{folder}");
    }
}

/// Each service has an address with the port of its default URL, which leads to a port of its pods.
#[test]
fn every_service_has_an_address_and_survives_the_loss_of_a_node() {
    let workloads = workloads();
    let objects = objects();
    for service in services().chain(["gateway", "discovery"]) {
        let found = objects.iter().find(|it| kind(it) == "Service" && name(it) == service);
        let address = found.unwrap_or_else(|| panic!("{service} has no Service"));
        let port = &list(&address["spec"]["ports"])[0];
        assert_eq!(port["port"].as_u64(), Some(50051), "{service}");
        let container = &containers(&workloads[service])[0];
        let ports: Vec<_> = list(&container["ports"]).iter().map(|it| text(it, "name")).collect();
        assert!(ports.contains(&text(port, "targetPort")), "{service}");
        let selector = labels(&address["spec"]["selector"]);
        let pod = labels(&template(&workloads[service])["metadata"]["labels"]);
        assert!(selector.iter().all(|(key, value)| pod.get(key) == Some(value)), "{service}");
        assert!(names("PodDisruptionBudget").contains(service), "{service}");
        let is_scaled = names("HorizontalPodAutoscaler").contains(service);
        let replicas = workloads[service]["spec"]["replicas"].as_u64();
        // Two replicas at least; an autoscaler and a fixed number would overwrite each other.
        assert!(if is_scaled { replicas.is_none() } else { replicas >= Some(2) }, "{service}");
    }
    for autoscaler in objects.iter().filter(|it| kind(it) == "HorizontalPodAutoscaler") {
        assert_eq!(text(&autoscaler["spec"]["scaleTargetRef"], "name"), name(autoscaler));
        assert!(autoscaler["spec"]["minReplicas"].as_u64() >= Some(2), "{}", name(autoscaler));
    }
}

/// Images of the suite have the version of the workspace.
#[test]
fn images_have_the_version_of_the_workspace() {
    for (workload, object) in workloads() {
        for container in containers(&object) {
            let (image, tag) = text(container, "image").split_once(':').expect("a tag");
            if image.starts_with("tenantry-") {
                assert_eq!(tag, env!("CARGO_PKG_VERSION"), "{workload}");
            }
        }
    }
    let chart = fs::read_to_string(root().join("deploy/helm/tenantry/Chart.yaml")).unwrap();
    let chart: Value = serde_yaml_ng::from_str(&chart).unwrap();
    assert_eq!(text(&chart, "appVersion"), env!("CARGO_PKG_VERSION"));
}

/// The programs and their subcommands and flags exist.
#[test]
fn programs_have_the_arguments_of_their_pods() {
    for (workload, object) in workloads() {
        let container = &containers(&object)[0];
        let (image, _) = text(container, "image").split_once(':').unwrap();
        let arguments = texts(&container["args"]);
        let (program, rest) = match image {
            "tenantry-tools" => ("tenantry", &arguments[..]),
            "tenantry-runner" => (arguments[0], &arguments[1..]),
            _ if image.starts_with("tenantry-") => {
                assert_eq!(image, format!("tenantry-{}", arguments[0]), "{workload}");
                (arguments[0], &arguments[1..])
            }
            _ => continue,
        };
        let output = Process::run(program, &[rest, &["--help"]].concat());
        assert!(output.status.success(), "{workload}: {program} {rest:?}");
    }
    let help = Process::run("tenantry", &["cluster-secrets", "--help"]);
    let component =
        fs::read_to_string(root().join(FOLDER).join("components/cert-manager/kustomization.yaml"));
    assert!(component.unwrap().contains("value: --keys-only"));
    assert!(String::from_utf8_lossy(&help.stdout).contains("--keys-only"));
}

#[test]
fn every_variable_is_a_setting() {
    let command = chassis::Config::augment_args(Command::new("settings"));
    let settings = command.get_arguments().filter_map(|it| it.get_env()?.to_str());
    let known: BTreeSet<_> = settings.chain(OTHER_VARIABLES).collect();
    let mut variables = BTreeSet::new();
    for document in ["base", "backing", "overlays"].into_iter().flat_map(documents) {
        let is_of_settings = name(&document).ends_with("settings");
        for key in ["data", "stringData"] {
            let data = document[key].as_mapping().filter(|_| is_of_settings);
            let keys = data.into_iter().flatten().filter_map(|(key, _)| key.as_str());
            variables.extend(keys.map(ToOwned::to_owned));
        }
        if WORKLOADS.contains(&kind(&document)) {
            let environment = containers(&document).iter().flat_map(|it| list(&it["env"]));
            variables.extend(environment.map(|it| text(it, "name").to_owned()));
        }
    }
    assert!(variables.len() > 20, "the variables are found");
    let unknown: Vec<_> = variables.into_iter().filter(|it| !known.contains(it.as_str())).collect();
    assert_none(&unknown, "settings of deploy/kubernetes exist");
}

/// Pods are not root, have no capabilities, no writable file system of their own, and no account of the
/// cluster.
#[test]
fn pods_are_hardened() {
    let mut violations = vec![];
    for (workload, object) in workloads() {
        let pod = &template(&object)["spec"];
        let mut require = |holds: bool, what: &str| {
            if !holds {
                violations.push(format!("{workload}: {what}"));
            }
        };
        let has_account = workload == "cluster-secrets";
        require(has_account || pod["automountServiceAccountToken"] == false, "account");
        require(pod["enableServiceLinks"] == false, "variables of other services");
        let container = &containers(&object)[0];
        require(!container["resources"]["requests"]["memory"].is_null(), "requested memory");
        require(!container["resources"]["limits"]["memory"].is_null(), "limit of memory");
        // It isolates deployed programs, for which it needs the privileges of the node.
        if workload == "runner" {
            continue;
        }
        let profile = text(&pod["securityContext"]["seccompProfile"], "type");
        require(profile == "RuntimeDefault", "seccomp profile");
        let context = &container["securityContext"];
        require(context["allowPrivilegeEscalation"] == false, "new privileges");
        require(context["privileged"].is_null(), "privileged");
        // The image changes from root to its own user.
        if workload == "postgres" {
            continue;
        }
        require(pod["securityContext"]["runAsNonRoot"] == true, "root");
        require(texts(&context["capabilities"]["drop"]) == ["ALL"], "capabilities");
        let is_read_only = context["readOnlyRootFilesystem"] == true;
        // The demo writes a git repository, for which git needs a home directory.
        require(is_read_only || workload == "demo", "writable file system");
    }
    assert_none(&violations, "pods are hardened");
}

/// A pod mounts the certificate of one service, and only services the secret key.
#[test]
fn a_pod_sees_no_key_of_another_service() {
    let created = ["secret-key", "audit-key"].map(str::to_owned).into_iter();
    let certificates =
        services().chain(["runner", "gateway", "discovery"]).map(|it| format!("tls-{it}"));
    let known: BTreeSet<_> = created.chain(certificates).chain(names("Secret")).collect();
    let mut violations = vec![];
    for (workload, object) in workloads() {
        let pod = &template(&object)["spec"];
        let volumes = list(&pod["volumes"]).iter();
        let mut secrets: BTreeSet<_> =
            volumes.filter_map(|it| it["secret"]["secretName"].as_str()).collect();
        for container in containers(&object) {
            let sources = list(&container["envFrom"]).iter();
            secrets.extend(sources.filter_map(|it| it["secretRef"]["name"].as_str()));
        }
        let own = [format!("tls-{workload}"), format!("{workload}-settings")];
        for secret in secrets {
            let is_allowed = match secret {
                "secret-key" => services().any(|it| it == workload) || workload == "migrate",
                "audit-key" => ["audit", "migrate"].contains(&&*workload),
                // The certificate of the authority, without the key.
                "tls-gateway" if workload == "demo" => true,
                _ => own.iter().any(|it| it == secret),
            };
            if !is_allowed || !known.contains(secret) {
                violations.push(format!("{workload} uses {secret}"));
            }
        }
    }
    assert_none(&violations, "a pod uses its own secrets only");
}

/// The job may read and replace the certificates that the pods mount, and no other Secret.
#[test]
fn the_job_for_secrets_may_use_these_secrets_only() {
    let objects = objects();
    let role = objects.iter().find(|it| kind(it) == "Role").unwrap();
    let named = list(&role["rules"]).iter().flat_map(|it| texts(&it["resourceNames"]));
    let named: BTreeSet<_> = named.map(ToOwned::to_owned).collect();
    let certificates =
        services().chain(["runner", "gateway", "discovery"]).map(|it| format!("tls-{it}"));
    let others = ["secret-key", "audit-key", "authority"].map(str::to_owned);
    assert_eq!(named, certificates.chain(others).collect());
    for rule in list(&role["rules"]).iter().filter(|it| it["resourceNames"].is_null()) {
        assert_eq!(texts(&rule["verbs"]), ["create"]);
    }
}

/// Certificates of cert-manager have the URI names that services require; those of proxies have none.
#[test]
fn certificates_of_cert_manager_name_their_service() {
    let certificates = documents("components/cert-manager");
    let certificates = certificates.iter().filter(|it| kind(it) == "Certificate");
    let names: BTreeMap<_, _> = certificates
        .filter(|it| name(it) != "authority")
        .map(|it| (name(it).to_owned(), texts(&it["spec"]["uris"])))
        .collect();
    let mut expected = BTreeMap::from(["gateway", "discovery"].map(|it| (it.to_owned(), vec![])));
    let uris: Vec<_> = SERVICES
        .iter()
        .map(|it| it.name)
        .chain(["runner"])
        .map(|it| (it.to_owned(), format!("spiffe://tenantry/svc/{it}")))
        .collect();
    expected.extend(uris.iter().map(|(name, uri)| (name.clone(), vec![uri.as_str()])));
    assert_eq!(names, expected);
}
