//! Result of the scenario, and the commands that it suggests to try next.

use std::path::PathBuf;

use anyhow::Result;
use api::audit;

use crate::{serve::program_path, tools::print};

/// Objects that the scenario created.
pub struct Outcome {
    /// Id of the organization.
    pub org_id: String,
    /// Session token of the organization's owner.
    pub owner_token: String,
    /// Entries of the organization's audit log, oldest first.
    pub entries: Vec<audit::Entry>,
    /// Verifier key of the audit log.
    pub verifier_key: String,
    /// JSON file with an inclusion proof.
    pub proof: PathBuf,
    /// URL of the deployed environment.
    pub url: String,
}

impl Outcome {
    /// Prints commands to try next. `endpoint` is the URL of the suite.
    pub(super) fn print_next_steps(&self, endpoint: &str) -> Result<()> {
        let program = program_path();
        let address = endpoint.rsplit('/').next().unwrap_or_default();
        let plaintext = if endpoint.starts_with("http:") { "-plaintext " } else { "" };
        print(&format!(
            "\nAll steps succeeded. Commands to try next, as Ann:\n\
             \x20 export TOKEN={}\n\
             \x20 grpcurl {plaintext}-expand-headers -H 'authorization: Bearer ${{TOKEN}}' \\\n\
             \x20   -d '{{\"org_id\": \"{}\"}}' {address} tenantry.audit.v1.AuditService/ListEntries\n\
             \x20 {program} verify {} --key '{}'\n\
             \x20 curl {}\n",
            self.owner_token,
            self.org_id,
            self.proof.display(),
            self.verifier_key,
            self.url,
        ))
    }
}
