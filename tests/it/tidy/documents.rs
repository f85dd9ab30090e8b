//! Documents: links, and paths and names of tests.

use std::fs;

use super::{assert_none, files, root, rust_files};

#[test]
fn every_link_in_a_document_has_a_target() {
    let mut violations = vec![];
    for document in files(".", &[".md"]) {
        let folder = root().join(&document.path).parent().unwrap().to_owned();
        let links = document.text.split("](").skip(1);
        for link in links.filter_map(|rest| rest.split([')', '#']).next()) {
            if !link.is_empty() && !link.starts_with("http") && !folder.join(link).exists() {
                violations.push(format!("{}: {link}", document.path));
            }
        }
    }
    assert_none(&violations, "a link has a target in the repository");
}

/// The threat model names the test of each defence as `path` followed by names of functions.
#[test]
fn tests_in_the_threat_model_exist() {
    let text = fs::read_to_string(root().join("docs/development/threat-model.md")).unwrap();
    let sources = rust_files();
    let functions: Vec<&str> = sources
        .iter()
        .flat_map(|source| source.text.split("fn ").skip(1))
        .filter_map(|rest| rest.split('(').next())
        .collect();
    let mut violations = vec![];
    for row in text.lines().filter(|line| line.contains("`tests/it/")) {
        for path in row.split('`').filter(|part| part.starts_with("tests/it/")) {
            if !root().join(path).exists() {
                violations.push(path.to_owned());
            }
        }
        // Names of tests have at least three words, and are no part of a path.
        let outside = row.split('`').step_by(2);
        let words =
            outside.flat_map(|it| it.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')));
        for name in words.filter(|word| word.matches('_').count() > 1) {
            if !functions.contains(&name) {
                violations.push(name.to_owned());
            }
        }
    }
    assert_none(&violations, "docs/development/threat-model.md names existing tests");
}
