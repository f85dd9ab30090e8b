//! Layers of the services: pure rules, SQL in stores, contract messages at the edge.

use std::collections::BTreeSet;

use prost_reflect::DescriptorPool;

use super::{Source, assert_none, files, root, services};

/// Files at the edge of a service, which convert between the contract and the domain.
const EDGE_FILES: [&str; 2] = ["rpc.rs", "wire.rs"];

/// Files directly in `src/` of a service without a crate of rules are pure rules. A crate of rules is checked
/// by its manifest.
#[test]
fn rules_do_no_io() {
    let without_rules =
        |service: &&str| !root().join("services").join(service).join("rules").exists();
    for service in services().filter(without_rules) {
        for Source { path, text } in files(&format!("services/{service}/src"), &[".rs"]) {
            let is_direct = path.matches('/').count() == 3;
            let wiring = ["main.rs", "lib.rs", "reactions.rs", "mails.rs", "rpc.rs"];
            let is_wiring = wiring.iter().any(|name| path.ends_with(name));
            if !is_direct || is_wiring {
                continue;
            }
            let rules = text.split("#[cfg(test)]").next().unwrap();
            for io in ["tonic::", "sqlx::query", "tokio::", ".await"] {
                assert!(!rules.contains(io), "{path} is a rule and contains {io}");
            }
        }
    }
}

/// Crates of rules do no I/O either: they have no libraries for it, and do not use those of chassis.
#[test]
fn crates_of_rules_do_no_io() {
    for Source { path, text } in files("services", &["rules/Cargo.toml"]) {
        for library in ["sqlx", "tokio", "tokio-util", "tonic", "reqwest", "host", "worker"] {
            let key = format!("\n{library}.workspace");
            assert!(!text.contains(&key), "{path} depends on {library}");
        }
    }
    for Source { path, text } in files("services", &[".rs"]) {
        if path.contains("/rules/src/") {
            for io in ["async fn", ".await", "Tx", "Db", "column::sqlx"] {
                let words = text.split(|c: char| !(c.is_alphanumeric() || "_.: ".contains(c)));
                let is_used = words.flat_map(|it| it.split(' ')).any(|word| word == io)
                    || (io.contains([' ', '.', ':']) && text.contains(io));
                assert!(!is_used, "{path} is a rule and contains {io}");
            }
        }
    }
}

/// True for the files of SQL statements: `store.rs`, and the files of a folder `store`.
pub(super) fn is_store(path: &str) -> bool {
    path.ends_with("store.rs") || path.contains("/store/")
}

#[test]
fn sql_is_in_stores_and_names_its_columns() {
    for Source { path, text } in files("services", &[".rs"]) {
        let macros = ["query!(", "query_as!(", "query_scalar!("];
        let has_sql = macros.iter().any(|name| text.contains(name));
        assert!(!has_sql || is_store(&path), "{path} contains SQL");
        assert!(!text.to_lowercase().contains("select *"), "{path} selects *");
    }
}

#[test]
fn no_service_reads_the_schema_of_another() {
    let stores = files("services", &[".rs"]).into_iter().filter(|it| is_store(&it.path));
    for Source { path, text } in stores.chain(files("services", &[".sql"])) {
        for other in services().filter(|name| !path.starts_with(&format!("services/{name}/"))) {
            for word in ["from", "join", "into", "update"] {
                assert!(!text.contains(&format!("{word} {other}.")), "{path} reads {other}");
            }
        }
    }
}

/// Names of the request and response messages of the methods that a service serves.
fn own_messages(packages: &[&str]) -> BTreeSet<String> {
    let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
    let methods = pool
        .services()
        .filter(|service| packages.contains(&service.package_name()))
        .flat_map(|service| service.methods().collect::<Vec<_>>());
    let names = methods.flat_map(|method| [method.input(), method.output()]);
    names
        .filter(|message| packages.contains(&message.package_name()))
        .map(|message| message.name().to_owned())
        .collect()
}

/// True for files that convert contract messages: `rpc.rs`, `wire.rs`, and the pages and hooks over HTTP.
fn is_edge(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    let folders: Vec<_> = path.split('/').collect();
    EDGE_FILES.contains(&name)
        || ["page.rs", "hook.rs"].contains(&name)
        || ["rpc", "wire", "page", "hook"].iter().any(|folder| folders.contains(folder))
}

/// Commands, rules and stores use domain types: only files at the edge name the messages of the own service.
#[test]
fn only_the_edge_names_contract_messages() {
    let mut violations = vec![];
    for service in chassis::registry::SERVICES {
        let messages = own_messages(service.packages);
        for Source { path, text } in files(&format!("services/{}", service.name), &[".rs"]) {
            let is_test = path.ends_with("tests.rs") || path.contains("/tests/");
            // A repeated acceptance is recognized by its whole message, before anything else happens.
            let is_exception = path.ends_with("invitation/acceptance/commands.rs");
            if is_edge(&path) || is_test || is_exception {
                continue;
            }
            let code = text.split("#[cfg(test)]").next().unwrap();
            let words: BTreeSet<_> = code.split(|c: char| !c.is_ascii_alphanumeric()).collect();
            for name in messages.iter().filter(|name| words.contains(name.as_str())) {
                violations.push(format!("{path}: {name}"));
            }
        }
    }
    assert_none(
        &violations,
        "only rpc.rs, wire.rs, page and hook files name requests and responses",
    );
}
