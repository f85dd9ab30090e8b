//! Custom domains of environments: the list of the project service, in a file of the runner's directory. The
//! heartbeat replaces it; the proxy serves what is in it, also while the project service is away.

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use api::project::EnvironmentDomains;
use primitives::hostname;
use serde::{Deserialize, Serialize};

use crate::certificate::write_private;

/// Name of the file. No environment has this name: those of their directories are UUIDs.
const FILE: &str = "domains.json";

/// Verified custom domains of the environments of this server.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DomainList {
    /// Version of the list; empty before the first one.
    pub(crate) version: String,
    /// Host names by the id of their environment.
    hostnames: BTreeMap<String, Vec<String>>,
}

impl DomainList {
    /// Converts a list of the project service. Host names that are not valid are left out.
    pub(crate) fn new(version: String, environments: Vec<EnvironmentDomains>) -> Self {
        let hostnames = environments.into_iter().map(|mut it| {
            it.hostnames.retain(|name| hostname::is_valid(name));
            (it.environment_id, it.hostnames)
        });
        Self { version, hostnames: hostnames.collect() }
    }

    /// Reads the list; empty if there is none.
    pub(crate) async fn read(data_dir: &Path) -> Self {
        let text = tokio::fs::read(data_dir.join(FILE)).await.unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Replaces the stored list.
    pub(crate) fn write(&self, data_dir: &Path) -> Result<()> {
        write_private(&data_dir.join(FILE), &serde_json::to_vec(self)?)
    }

    /// Returns the host names of an environment.
    pub(crate) fn of(&self, environment_id: &str) -> &[String] {
        self.hostnames.get(environment_id).map(Vec::as_slice).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_list_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(DomainList::read(folder.path()).await, DomainList::default());
        let hostnames = ["shop.example", "*.example", "{env.HOME}"].map(str::to_owned).to_vec();
        let environment = EnvironmentDomains { environment_id: "e".to_owned(), hostnames };
        let list = DomainList::new("1a".to_owned(), vec![environment]);
        list.write(folder.path()).unwrap();
        let list = DomainList::read(folder.path()).await;
        assert_eq!(
            (list.version.as_str(), list.of("e")),
            ("1a", ["shop.example".to_owned()].as_slice())
        );
        assert!(list.of("other").is_empty());
    }
}
