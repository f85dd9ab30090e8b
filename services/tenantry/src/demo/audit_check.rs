//! Last part of the scenario: reads the audit log, and verifies an inclusion proof offline.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use api::audit;
use verifier::{Pins, note::VerifierKey, receipt::Receipt};

use super::scenario::{Person, SampleProject, Scenario, poll};
use crate::client::Client;

const IDENTITY: &str = "tenantry.identity.v1";
const PROJECT: &str = "tenantry.project.v1";
const INVITATION: &str = "tenantry.invitation.v1";
const AUDIT: &str = "tenantry.audit.v1";

/// Events of one service, in the order in which they must be in the log.
struct ExpectedEvents {
    package: &'static str,
    names: &'static [&'static str],
}

/// Expected entries of the organization's log. The order is defined only within each service.
const EXPECTED: &[ExpectedEvents] = &[
    ExpectedEvents {
        package: IDENTITY,
        names: &[
            "OrganizationCreated",
            "SubscriptionPlanChanged",
            "ProjectRegistered",
            "MemberJoined",
            "MemberRoleChanged",
            "ProjectAccessChanged",
            "MemberRemoved",
            "ProjectGrantsRemoved",
        ],
    },
    ExpectedEvents {
        package: PROJECT,
        names: &[
            "ProjectCreated",
            "EnvironmentCreated",
            "DeploymentRequested",
            "DeploymentStarted",
            "DeploymentCompleted",
        ],
    },
    ExpectedEvents {
        package: INVITATION,
        names: &["InvitationCreated", "InvitationAccepted", "InvitationExpired"],
    },
    // Bob's rejected deployment.
    ExpectedEvents { package: AUDIT, names: &["PermissionDenied"] },
];

/// A verified inclusion proof.
pub(super) struct VerifiedProof {
    /// Verifier key of the log.
    pub(super) verifier_key: String,
    /// File that contains the proof, for `tenantry verify`.
    pub(super) file: PathBuf,
}

impl Scenario<'_> {
    /// Waits until the organization's log is complete; prints and returns its entries, oldest first.
    pub(super) async fn read_log(
        &self,
        ann: &Person,
        sample: &SampleProject,
    ) -> Result<Vec<audit::Entry>> {
        let audit = self.services.audit.with_token(&ann.token);
        let entries = poll("the audit log is incomplete", async || {
            let entries = list_entries(&audit, &sample.org_id).await?;
            Ok(is_complete(&entries).then_some(entries))
        });
        let entries = entries.await?;
        let count = entries.len();
        self.console
            .print_line(&format!("    \u{2192} {AUDIT}.AuditService/ListEntries: {count} entries"));
        for entry in &entries {
            self.console.print_line(&to_line(entry));
        }
        Ok(entries)
    }

    /// Gets an inclusion proof of Bob's removal and verifies it offline; checks that a forged entry fails.
    pub(super) async fn verify_proof(
        &self,
        ann: &Person,
        sample: &SampleProject,
        entries: &[audit::Entry],
        directory: &Path,
    ) -> Result<VerifiedProof> {
        let audit = self.services.audit.with_token(&ann.token);
        let removal = entries.iter().find(|it| event_name(it).ends_with(".MemberRemoved"));
        let event_id = removal.and_then(|it| it.envelope.as_ref()).map(|it| it.id.clone());
        let get = audit::GetInclusionProofRequest {
            org_id: sample.org_id.clone(),
            event_id: event_id.context("the log has no entry of Bob's removal")?,
        };
        let method = format!("{AUDIT}.LogService/GetInclusionProof");
        let proof = poll("no checkpoint was signed", async || {
            let result: Result<audit::GetInclusionProofResponse, _> =
                audit.call(&method, get.clone()).await;
            match result {
                Ok(proof) => Ok(Some(proof)),
                Err(error) if error.reason == "NOT_YET_SIGNED" => Ok(None),
                Err(error) => Err(error.into()),
            }
        });
        let json = audit.to_json(&proof.await?)?;
        let file = directory.join("proof.json");
        std::fs::write(&file, serde_json::to_vec_pretty(&json)?)?;
        let method = format!("{AUDIT}.LogService/GetVerifierKeys");
        let keys: audit::GetVerifierKeysResponse =
            self.console.call(&audit, &method, audit::GetVerifierKeysRequest {}).await?;
        let verifier_key = keys.verifier_keys.first().context("the log has no key")?.clone();

        let receipt = Receipt::from_json(&json)?;
        let pins = Pins {
            keys: vec![VerifierKey::parse(&verifier_key)?],
            org_id: Some(sample.org_id.clone()),
            ..Pins::default()
        };
        let (checkpoint, entry) = receipt.verify(&pins)?;
        self.console.print_line(&format!(
            "    verified: entry {} of {} in {}",
            entry.index, checkpoint.size, checkpoint.origin
        ));
        let mut forged = receipt;
        forged.leaf.push(0);
        ensure!(forged.verify(&pins).is_err(), "verification accepted a forged entry");
        Ok(VerifiedProof { verifier_key, file })
    }
}

/// Returns all entries of an organization, oldest first.
async fn list_entries(audit: &Client, org_id: &str) -> Result<Vec<audit::Entry>> {
    let method = format!("{AUDIT}.AuditService/ListEntries");
    let mut entries = vec![];
    let mut page_token = String::new();
    loop {
        let list = audit::ListEntriesRequest {
            org_id: org_id.to_owned(),
            page_size: 7,
            page_token,
            ..Default::default()
        };
        let page: audit::ListEntriesResponse = audit.call(&method, list).await?;
        entries.extend(page.entries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            entries.reverse();
            return Ok(entries);
        }
    }
}

/// Returns true if the log has exactly the expected events of each service, in order.
fn is_complete(entries: &[audit::Entry]) -> bool {
    EXPECTED.iter().all(|expected| {
        let names = entries.iter().map(event_name);
        let names: Vec<_> = names
            .filter_map(|it| it.strip_prefix(expected.package)?.get(1..).map(str::to_owned))
            .collect();
        names == *expected.names
    })
}

/// Returns the full name of an entry's event.
fn event_name(entry: &audit::Entry) -> String {
    let event = entry.envelope.as_ref().and_then(|it| it.event.as_ref());
    event.map(|it| it.type_url.trim_start_matches('/').to_owned()).unwrap_or_default()
}

/// Returns an entry as one line: index, event, actor, resource and client address.
fn to_line(entry: &audit::Entry) -> String {
    let envelope = entry.envelope.clone().unwrap_or_default();
    let actor = envelope.actor.unwrap_or_default();
    let resource = envelope.resource.unwrap_or_default();
    let origin = envelope.origin.unwrap_or_default();
    let name = event_name(entry);
    let name = name.rsplit('.').next().unwrap_or_default();
    format!(
        "    {:>4}  {name:<24} {:<24} {} {} from {}",
        entry.index, actor.name, resource.kind, resource.name, origin.address
    )
}
