//! Dashboards of Grafana: each query returns data while the suite is in use.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;
use testkit::{Prometheus, eventually};

/// A query of a panel.
struct PanelQuery {
    /// File and title of the panel.
    panel: String,
    expression: String,
}

/// Every query, with values in place of the variables of Grafana.
fn queries() -> Vec<PanelQuery> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/observability/dashboards");
    let mut queries = vec![];
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let file = entry.file_name().to_string_lossy().into_owned();
        let dashboard: Value =
            serde_json::from_str(&fs::read_to_string(entry.path()).unwrap()).unwrap();
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = panel["title"].as_str().unwrap();
            for target in panel["targets"].as_array().unwrap() {
                let expression = target["expr"].as_str().unwrap();
                let expression = expression.replace("$__rate_interval", "2m");
                let expression = expression.replace("$__range", "5m").replace("$instance", ".*");
                assert!(!expression.contains('$'), "{file}: {expression}");
                queries.push(PanelQuery { panel: format!("{file}: {title}"), expression });
            }
        }
    }
    queries
}

/// Waits until each query has returned data, and fails with those that return none.
pub(super) async fn require_data(prometheus: &Prometheus) {
    let queries = queries();
    let panels: BTreeSet<_> = queries.iter().map(|it| &it.panel).collect();
    assert!(panels.len() > 20, "{panels:?}");
    for PanelQuery { panel, expression } in &queries {
        eventually(&format!("data of {panel} ({expression})"), async || {
            let series = prometheus.query(expression).await;
            let series = series.unwrap_or_else(|error| panic!("{panel}: {error}"));
            // A quantile of calls without a call in the window is NaN, which shows that its series exist.
            (!series.is_empty()).then_some(())
        })
        .await;
    }
}
