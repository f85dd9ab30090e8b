//! Checks of the source text: layout, layers, tenant isolation, dependencies, language, documents.

mod alerts; // Alert rules of deploy/observability.
mod dependencies; // Dependencies among the crates of the workspace.
mod deployment; // Containers of deploy/compose.yaml.
mod documents; // Links and names of tests in documents.
mod kubernetes; // Objects of deploy/kubernetes.
mod language; // Comments, glossary and rule ids.
mod layers; // Placement of SQL, I/O and contract messages.
mod layout; // Length of files and lines, first line of files.
mod modules; // Imports among the modules of a service.
mod tenant_isolation; // Tenants in SQL statements.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A file of the repository.
struct Source {
    /// Path from the root of the repository.
    path: String,
    text: String,
}

/// Root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Files below a folder whose names end with one of `endings`, by path.
fn files(folder: &str, endings: &[&str]) -> Vec<Source> {
    let mut found = vec![];
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !["target", ".git", ".tools"].contains(&name.as_str()) {
                folders.push(path);
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root()).unwrap().display().to_string();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// All Rust files.
fn rust_files() -> Vec<Source> {
    files(".", &[".rs"])
}

/// Names of the services.
fn services() -> impl Iterator<Item = &'static str> {
    chassis::registry::SERVICES.iter().map(|service| service.name)
}

/// Fails with all violations.
fn assert_none(violations: &[String], rule: &str) {
    assert!(violations.is_empty(), "{rule}:\n{}", violations.join("\n"));
}
