//! Notifications that Alertmanager has sent.

use std::collections::BTreeMap;

use serde_json::Value;
use testkit::{Receiver, eventually};

use crate::support::world::text;

/// The webhook receiver of an Alertmanager.
pub(super) struct Deliveries(Receiver);

/// An alert with its labels.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Alert {
    name: String,
    labels: String,
}

impl Deliveries {
    pub(super) async fn start() -> Self {
        Self(Receiver::start().await)
    }

    pub(super) fn url(&self) -> String {
        self.0.url("/")
    }

    /// The last status of each alert: true if it fires.
    fn states(&self) -> BTreeMap<Alert, bool> {
        let mut states = BTreeMap::new();
        for request in self.0.requests() {
            let message: Value = serde_json::from_str(&request.body).unwrap();
            for alert in message["alerts"].as_array().into_iter().flatten() {
                let name = text(&alert["labels"]["alertname"]);
                let key = Alert { name, labels: alert["labels"].to_string() };
                states.insert(key, alert["status"] == "firing");
            }
        }
        states
    }

    /// Waits until each of these alerts fires.
    pub(super) async fn wait_for_firing(&self, names: &[&str]) {
        for name in names {
            eventually(&format!("the alert {name}"), async || {
                self.states().iter().any(|(it, fires)| it.name == *name && *fires).then_some(())
            })
            .await;
        }
    }

    /// Waits until the end of every alert is delivered.
    pub(super) async fn wait_for_quiet(&self) {
        let firing = || {
            let states = self.states().into_iter().filter(|(_, fires)| *fires);
            states.map(|(alert, _)| alert).collect::<Vec<_>>()
        };
        let quiet = eventually("the end of the alerts", async || {
            let firing = firing();
            firing.is_empty().then_some(())
        });
        let quiet = tokio::time::timeout(std::time::Duration::from_secs(55), quiet);
        assert!(quiet.await.is_ok(), "these alerts still fire: {:#?}", firing());
    }
}
