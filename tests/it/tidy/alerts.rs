//! `deploy/observability/alerts.yaml`: every rule has a section in the book, and metrics that it explains.

use std::{collections::BTreeSet, fs};

use regex::Regex;
use serde_yaml_ng::Value;

use super::{assert_none, root};

/// Suffixes that Prometheus adds to the name of a metric.
const SUFFIXES: [&str; 4] = ["_bucket", "_count", "_total", "_seconds"];

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_default()
}

/// Anchors of the headings of a page.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter_map(|it| it.strip_prefix('#'));
    let is_kept = |it: &char| it.is_alphanumeric() || *it == '-';
    let anchor = |it: &str| {
        let text = it.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        text.chars().filter(is_kept).collect()
    };
    headings.map(anchor).collect()
}

/// Name of a metric without the suffixes of Prometheus.
fn base(mut name: &str) -> &str {
    for suffix in SUFFIXES {
        name = name.strip_suffix(suffix).unwrap_or(name);
    }
    name
}

/// Parts of a runbook, in their order.
const PARTS: [&str; 4] = ["**Meaning.**", "**Look at.**", "**Do.**", "**Over.**"];

/// The runbook of an alert has its name, a command, and all parts.
#[test]
fn every_runbook_is_complete() {
    let file: Value = serde_yaml_ng::from_str(&read("deploy/observability/alerts.yaml")).unwrap();
    let mut defects = vec![];
    for rule in file["groups"][0]["rules"].as_sequence().unwrap() {
        let name = rule["alert"].as_str().unwrap();
        let runbook = rule["annotations"]["runbook"].as_str().unwrap_or_default();
        let page = read(runbook.split('#').next().unwrap_or_default());
        let section = page.split("\n## ").find_map(|it| it.strip_prefix(&format!("{name}\n")));
        let section = section.unwrap_or_default();
        let positions: Vec<_> = PARTS.iter().map(|it| section.find(it)).collect();
        if positions.contains(&None) || !positions.is_sorted() {
            defects.push(format!("{name}: not all of {PARTS:?}"));
        }
        if !section.contains("```console\n$ ") {
            defects.push(format!("{name}: no command"));
        }
    }
    assert_none(&defects, "the section `## <alert>` of docs/operations/runbooks.md has each part");
}

#[test]
fn every_alert_has_a_section_and_metrics_of_the_book() {
    let file: Value = serde_yaml_ng::from_str(&read("deploy/observability/alerts.yaml")).unwrap();
    let rules = file["groups"][0]["rules"].as_sequence().unwrap();
    let book = read("docs/operations/monitoring.md").replace('.', "_");
    let selector = Regex::new(r"\{[^}]*\}").unwrap();
    let metric = Regex::new("(?:tenantry|rpc)_[a-z_]+").unwrap();
    let mut defects = vec![];
    for rule in rules {
        let name = rule["alert"].as_str().unwrap();
        let runbook = rule["annotations"]["runbook"].as_str().unwrap_or_default();
        let (page, anchor) = runbook.split_once('#').unwrap_or_default();
        if !anchors(&read(page)).contains(anchor) {
            defects.push(format!("{name}: no section {runbook}"));
        }
        let expression = selector.replace_all(rule["expr"].as_str().unwrap(), "").into_owned();
        for found in metric.find_iter(&expression) {
            if !book.contains(&format!("`{}`", base(found.as_str()))) {
                defects.push(format!("{name}: the book does not explain {}", found.as_str()));
            }
        }
    }
    assert!(!rules.is_empty());
    assert_none(&defects, "add the section, or the metric to docs/operations/monitoring.md");
}
