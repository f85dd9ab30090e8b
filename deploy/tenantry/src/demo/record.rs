//! The end of the story: the log tells everything, and proves it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use api::audit;
use verifier::{Pins, note::VerifierKey, receipt::Receipt};

use super::story::{Person, Place, Story, patiently};
use crate::client::Client;

const IDENTITY: &str = "tenantry.identity.v1";
const PROJECT: &str = "tenantry.project.v1";
const INVITATION: &str = "tenantry.invitation.v1";
const AUDIT: &str = "tenantry.audit.v1";

/// What the organization's log tells at the end, by service and in order.
const LOG: &[(&str, &[&str])] = &[
    (
        IDENTITY,
        &[
            "OrganizationCreated",
            "PlanChanged",
            "ProjectRegistered",
            "MemberJoined",
            "MemberRoleChanged",
            "ProjectAccessChanged",
            "MemberRemoved",
            "ProjectGrantsRemoved",
        ],
    ),
    (
        PROJECT,
        &[
            "ProjectCreated",
            "EnvironmentCreated",
            "DeploymentTriggered",
            "DeploymentStarted",
            "DeploymentCompleted",
        ],
    ),
    (INVITATION, &["InvitationCreated", "InvitationAccepted", "InvitationExpired"]),
    // What Bob was refused.
    (AUDIT, &["PermissionDenied"]),
];

impl Story<'_> {
    /// The log of the organization, once it tells everything.
    pub(super) async fn log(&self, ann: &Person, place: &Place) -> Result<Vec<audit::Entry>> {
        let audit = self.services.audit.with_token(&ann.token);
        let entries = patiently("the log is not complete", async || {
            let entries = all_entries(&audit, &place.org_id).await?;
            Ok(complete(&entries).then_some(entries))
        });
        let entries = entries.await?;
        self.voice.say(&format!(
            "    \u{2192} {AUDIT}.AuditService/ListEntries: {} entries",
            entries.len()
        ));
        for entry in &entries {
            self.voice.say(&line(entry));
        }
        Ok(entries)
    }

    pub(super) async fn prove(
        &self,
        ann: &Person,
        place: &Place,
        entries: &[audit::Entry],
        folder: &Path,
    ) -> Result<(String, PathBuf)> {
        let audit = self.services.audit.with_token(&ann.token);
        let removal = entries.iter().find(|it| event_name(it).ends_with(".MemberRemoved"));
        let event_id = removal.and_then(|it| it.envelope.as_ref()).map(|it| it.id.clone());
        let get = audit::GetInclusionProofRequest {
            org_id: place.org_id.clone(),
            event_id: event_id.context("Bob's removal is in the log")?,
        };
        let method = format!("{AUDIT}.LogService/GetInclusionProof");
        let proof = patiently("no checkpoint was signed", async || {
            let got: Result<audit::GetInclusionProofResponse, _> =
                audit.call(&method, get.clone()).await;
            match got {
                Ok(proof) => Ok(Some(proof)),
                Err(refusal) if refusal.reason == "NOT_YET_SIGNED" => Ok(None),
                Err(other) => Err(other.into()),
            }
        });
        let json = audit.json(&proof.await?)?;
        let path = folder.join("proof.json");
        std::fs::write(&path, serde_json::to_vec_pretty(&json)?)?;
        let method = format!("{AUDIT}.LogService/GetVerifierKeys");
        let keys: audit::GetVerifierKeysResponse =
            self.voice.call(&audit, &method, audit::GetVerifierKeysRequest {}).await?;
        let key = keys.verifier_keys.first().context("the log has a key")?.clone();

        let receipt = Receipt::from_json(&json)?;
        let pins =
            Pins { keys: vec![VerifierKey::parse(&key)?], org_id: Some(place.org_id.clone()) };
        let (head, proven) = receipt.verify(&pins)?;
        self.voice.say(&format!(
            "    verified: entry {} of {} in {}",
            proven.index, head.size, head.origin
        ));
        let mut forged = receipt;
        forged.leaf.push(0);
        ensure!(forged.verify(&pins).is_err(), "a changed entry must not verify");
        Ok((key, path))
    }
}

/// Every entry of an organization, oldest first.
async fn all_entries(audit: &Client, org_id: &str) -> Result<Vec<audit::Entry>> {
    let (mut entries, mut page_token) = (vec![], String::new());
    loop {
        let list = audit::ListEntriesRequest {
            org_id: org_id.to_owned(),
            page_size: 7,
            page_token,
            ..Default::default()
        };
        let method = format!("{AUDIT}.AuditService/ListEntries");
        let page: audit::ListEntriesResponse = audit.call(&method, list).await?;
        entries.extend(page.entries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            entries.reverse();
            return Ok(entries);
        }
    }
}

/// Whether the log tells what each service did, in order, and nothing twice.
fn complete(entries: &[audit::Entry]) -> bool {
    LOG.iter().all(|(package, expected)| {
        let told = entries.iter().map(event_name);
        let told: Vec<_> =
            told.filter_map(|it| it.strip_prefix(package)?.get(1..).map(str::to_owned)).collect();
        told == **expected
    })
}

fn event_name(entry: &audit::Entry) -> String {
    let event = entry.envelope.as_ref().and_then(|it| it.event.as_ref());
    event.map(|it| it.type_url.trim_start_matches('/').to_owned()).unwrap_or_default()
}

fn line(entry: &audit::Entry) -> String {
    let envelope = entry.envelope.clone().unwrap_or_default();
    let (actor, resource) =
        (envelope.actor.unwrap_or_default(), envelope.resource.unwrap_or_default());
    let origin = envelope.origin.unwrap_or_default();
    let name = event_name(entry);
    let name = name.rsplit('.').next().unwrap_or_default();
    format!(
        "    {:>4}  {name:<22} {:<24} {} {} from {}",
        entry.index, actor.name, resource.kind, resource.name, origin.address
    )
}
