//! Dependencies among the crates of the workspace.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use super::{files, root};

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

#[test]
fn services_do_not_depend_on_each_other() {
    let dependencies = dependencies();
    let services = ["identity", "project", "invitation", "audit", "runner"];
    for service in services {
        for other in services {
            assert!(!dependencies[service].contains(other), "{service} depends on {other}");
        }
    }
}
