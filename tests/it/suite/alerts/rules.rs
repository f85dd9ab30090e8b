//! The rules of `alerts.yaml`: checks by promtool and amtool, and the same rules with short times.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use regex::Regex;
use serde_yaml_ng::Value;
use testkit::run_prometheus_tool;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/observability")
}

fn read(file: &str) -> Value {
    serde_yaml_ng::from_str(&fs::read_to_string(folder().join(file)).unwrap()).unwrap()
}

/// Names of the alerts.
pub(super) fn names() -> Vec<String> {
    let file = read("alerts.yaml");
    let rules = file["groups"][0]["rules"].as_sequence().unwrap();
    rules.iter().map(|it| it["alert"].as_str().unwrap().to_owned()).collect()
}

/// The rules with short times, so that a test does not wait for minutes: pending for a second, rates of 15
/// seconds, and ages and lengths of queues above 2. `alerts_test.yaml` has tests of the real numbers.
pub(super) fn with_short_times() -> String {
    let mut file = read("alerts.yaml");
    let window = Regex::new(r"\[\d+m\]|offset \d+m").unwrap();
    let threshold = Regex::new(r"(?s)((?:oldest_age_seconds|consumer_pending).*) > \d+").unwrap();
    let rules = file["groups"][0]["rules"].as_sequence_mut().unwrap();
    for rule in rules {
        let expression = rule["expr"].as_str().unwrap();
        let expression = window.replace_all(expression, |found: &regex::Captures<'_>| {
            if found[0].starts_with('[') { "[15s]" } else { "offset 15s" }
        });
        let expression = threshold.replace(&expression, "$1 > 2").into_owned();
        rule["expr"] = expression.into();
        if rule.get("for").is_some() {
            rule["for"] = "1s".into();
        }
    }
    serde_yaml_ng::to_string(&file).unwrap()
}

fn check(tool: &str, arguments: &[&str]) {
    let output = run_prometheus_tool(tool, arguments, &folder());
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&text));
}

#[test]
fn promtool_and_amtool_accept_the_files() {
    check("promtool", &["check", "rules", "alerts.yaml"]);
    check("promtool", &["check", "config", "prometheus.yaml"]);
    check("amtool", &["check-config", "alertmanager.yaml"]);
}

/// Thresholds and pending times of each rule, with series in place of a suite.
#[test]
fn the_unit_tests_of_the_rules_pass() {
    check("promtool", &["test", "rules", "alerts_test.yaml"]);
    let file = read("alerts_test.yaml");
    let tests = file["tests"].as_sequence().unwrap().iter();
    let cases: Vec<_> =
        tests.flat_map(|it| it["alert_rule_test"].as_sequence().unwrap().clone()).collect();
    let with = |fires: bool| -> BTreeSet<_> {
        let is_firing = |case: &&Value| {
            let expected = case["exp_alerts"].as_sequence();
            expected.is_some_and(|it| !it.is_empty()) == fires
        };
        let cases = cases.iter().filter(is_firing);
        cases.map(|it| it["alertname"].as_str().unwrap().to_owned()).collect()
    };
    let names: BTreeSet<_> = names().into_iter().collect();
    assert_eq!(with(true), names, "alerts with a case in which they fire");
    assert_eq!(with(false), names, "alerts with a case in which they do not");
}
