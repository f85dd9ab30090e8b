//! Dependencies among the crates of the workspace.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use super::{Source, files, root};

/// Crates of the workspace and the crates of the workspace that they depend on, from their manifests.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let manifests = files(".", &["Cargo.toml"]).into_iter().filter(|it| it.path != "Cargo.toml");
    let crates: BTreeMap<String, String> = manifests
        .map(|manifest| {
            let mut lines = manifest.text.lines();
            let name = lines.find_map(|line| line.strip_prefix("name = \"")).unwrap();
            (name.trim_end_matches('"').to_owned(), manifest.text.clone())
        })
        .collect();
    let names: BTreeSet<_> = crates.keys().cloned().collect();
    let dependencies_of = |text: &String| {
        let sections = text.split("\n[").filter(|section| section.contains("dependencies]"));
        let keys =
            sections.flat_map(str::lines).filter_map(|line| line.split(['.', ' ', '=']).next());
        keys.filter(|key| names.contains(*key)).map(str::to_owned).collect::<BTreeSet<_>>()
    };
    crates.iter().map(|(name, text)| (name.clone(), dependencies_of(text))).collect()
}

#[test]
fn the_table_of_crates_in_the_architecture_is_current() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")).filter_map(|row| {
        let mut cells = row.split('|').map(str::trim);
        let name = cells.next()?.trim_end_matches('`').to_owned();
        let listed = cells.nth(1)?;
        let listed = listed.split('`').skip(1).step_by(2).map(str::to_owned);
        Some((name, listed.collect::<BTreeSet<_>>()))
    });
    let actual = dependencies();
    let documented: BTreeMap<_, _> = rows.filter(|(name, _)| actual.contains_key(name)).collect();
    assert_eq!(documented, actual, "ARCHITECTURE.md and the manifests differ");
}

/// Crates that a crate of rules may depend on. The libraries do no I/O. `chassis` does, for services; only
/// `async` code can call it, which a rule must not contain.
const ALLOWED_IN_RULES: [&str; 17] = [
    "anyhow",
    "api",
    "chassis",
    "data-encoding",
    "idna",
    "ipnet",
    "primitives",
    "prost",
    "prost-types",
    "secrecy",
    "serde",
    "serde_json",
    "thiserror",
    "time",
    "totp-rs",
    "url",
    "uuid",
];

/// Rules depend on no library for I/O, and contain no `async` code.
#[test]
fn rules_do_no_io() {
    for Source { path, text } in files("services", &["rules/Cargo.toml"]) {
        let section = text.split("\n[").find(|it| it.starts_with("dependencies]")).unwrap();
        let keys = section.lines().skip(1).filter_map(|line| line.split(['.', ' ', '=']).next());
        for key in keys.filter(|key| !key.is_empty() && !key.starts_with('#')) {
            assert!(ALLOWED_IN_RULES.contains(&key), "{path}: {key} is not allowed in rules");
        }
        for Source { path, text } in files(path.trim_end_matches("Cargo.toml"), &[".rs"]) {
            for io in ["async ", ".await", "std::fs", "std::net", "std::thread"] {
                assert!(!text.contains(io), "{path} is a rule and contains {io}");
            }
        }
    }
}

#[test]
fn services_do_not_depend_on_each_other() {
    let dependencies = dependencies();
    let services = chassis::registry::SERVICES.iter().map(|it| it.name).chain(["runner"]);
    for service in services.clone() {
        for other in services.clone() {
            let rules_of_other = format!("{other}-rules");
            assert!(!dependencies[service].contains(other), "{service} depends on {other}");
            let is_own = service == other;
            let depends = dependencies[service].contains(&rules_of_other);
            assert!(is_own || !depends, "{service} depends on {rules_of_other}");
        }
    }
}
