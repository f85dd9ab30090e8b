//! Acknowledgements of a load, compared with the audit log and the organization after it.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use api::{
    audit::{
        ExportEntriesRequest, ExportFormat, GetVerifierKeysRequest,
        audit_service_client::AuditServiceClient, log_service_client::LogServiceClient,
    },
    identity::{
        GetSubscriptionRequest, ListMembersRequest, OrgRole,
        billing_service_client::BillingServiceClient, member_service_client::MemberServiceClient,
    },
    project::{ListProjectsRequest, project_service_client::ProjectServiceClient},
};
use tonic::{Status, transport::Channel};
use verifier::{Pins, bundle, note::VerifierKey};

use super::{Endpoints, Record, Tenant, operation::as_person};

/// Longest wait for acknowledged events in the log.
const LOGGED_MAX: Duration = Duration::from_secs(40);
/// Pause between two exports of the log.
const EXPORT_PAUSE: Duration = Duration::from_millis(250);

/// Calls and acknowledgements of a load that has ended.
pub struct Ledger {
    pub(super) tenant: Tenant,
    pub(super) endpoints: Endpoints,
    pub(super) calls: u64,
    pub(super) retried: u64,
    pub(super) record: Record,
    pub(super) duration: Duration,
}

/// Result of a load, to be printed as a row of a table.
pub struct Outcome {
    /// Number of calls.
    pub calls: u64,
    /// Calls that needed a second attempt.
    pub retried: u64,
    /// Calls that failed also in the second attempt.
    pub failed: usize,
    /// Acknowledged events that are not in the log.
    pub lost: usize,
    /// Events that are in the log twice, and projects that were created twice.
    pub duplicated: usize,
    /// Duration of the load.
    pub duration: Duration,
    /// Errors of the first attempts with their number, and of failed calls.
    pub errors: String,
}

impl Ledger {
    /// Verifies the audit log and compares it with the ledger; checks that the organization has one Owner and
    /// not more members than paid seats.
    pub async fn check(&self) -> Outcome {
        let logged = self.wait_for_log().await;
        let lost = self.record.event_ids.iter().filter(|it| !logged.contains_key(*it)).count();
        let logged_twice = logged.values().filter(|it| **it > 1).count();
        self.check_members().await;
        let projects = self.project_names().await;
        let missing: Vec<_> =
            self.record.projects.iter().filter(|it| !projects.contains_key(*it)).collect();
        assert!(missing.is_empty(), "acknowledged projects do not exist: {missing:?}");
        let created_twice = projects.values().filter(|it| **it > 1).count();
        let retries = self.record.retries.iter().map(|(error, count)| format!("{count}x {error}"));
        let failures = self.record.failures.iter().map(|it| format!("failed {it}"));
        Outcome {
            calls: self.calls,
            retried: self.retried,
            failed: self.record.failures.len(),
            lost,
            duplicated: logged_twice + created_twice,
            duration: self.duration,
            errors: retries.chain(failures).collect::<Vec<_>>().join("\n"),
        }
    }

    /// Waits until the log has all acknowledged events, or for [`LOGGED_MAX`]; returns for each of its events
    /// the number of entries.
    async fn wait_for_log(&self) -> BTreeMap<String, usize> {
        let started = Instant::now();
        loop {
            let logged = self.export().await.unwrap_or_default();
            let is_complete = self.record.event_ids.iter().all(|it| logged.contains_key(it));
            if is_complete || started.elapsed() > LOGGED_MAX {
                return logged;
            }
            tokio::time::sleep(EXPORT_PAUSE).await;
        }
    }

    /// Exports the log of the organization and verifies it. Fails while the log does not answer.
    async fn export(&self) -> Result<BTreeMap<String, usize>, Status> {
        let Tenant { org_id, owner, .. } = &self.tenant;
        let channel = self.endpoints.audit[0].clone();
        let mut log = LogServiceClient::new(channel.clone());
        let keys = log.get_verifier_keys(GetVerifierKeysRequest {}).await?.into_inner();
        let keys = keys.verifier_keys.iter().map(|it| VerifierKey::parse(it).unwrap()).collect();
        let pins = Pins { keys, org_id: Some(org_id.clone()), ..Pins::default() };
        let request = ExportEntriesRequest {
            org_id: org_id.clone(),
            format: ExportFormat::Bundle.into(),
            ..Default::default()
        };
        let mut audit = AuditServiceClient::new(channel);
        let mut stream = audit.export_entries(as_person(owner, request)).await?.into_inner();
        let mut file = vec![];
        while let Some(chunk) = stream.message().await? {
            file.extend(chunk.chunk);
        }
        let mut logged = BTreeMap::new();
        let report = bundle::verify(
            &*file,
            &pins,
            |_| None,
            |it| *logged.entry(it.event_id.clone()).or_default() += 1,
        );
        let report = report.unwrap_or_else(|refused| panic!("{refused}"));
        assert!(report.complete, "the export does not contain all entries of its checkpoint");
        Ok(logged)
    }

    async fn check_members(&self) {
        let Tenant { org_id, owner, .. } = &self.tenant;
        let channel = self.endpoints.identity[0].clone();
        let list = ListMembersRequest {
            org_id: org_id.clone(),
            role: OrgRole::Owner.into(),
            ..Default::default()
        };
        let mut members = MemberServiceClient::new(channel.clone());
        let owners = members.list_members(as_person(owner, list)).await.unwrap().into_inner();
        let owners: Vec<_> = owners.members.into_iter().map(|it| it.user_id).collect();
        assert_eq!(owners, std::slice::from_ref(&owner.user_id), "owners of the organization");
        let get = GetSubscriptionRequest { org_id: org_id.clone() };
        let mut billing = BillingServiceClient::new(channel);
        let got = billing.get_subscription(as_person(owner, get)).await.unwrap().into_inner();
        let subscription = got.subscription.unwrap();
        if let Some(paid) = subscription.seats_paid {
            assert!(subscription.seats_used <= paid, "{subscription:?}");
        }
    }

    /// Returns the names of all projects, with the number of projects of each name.
    async fn project_names(&self) -> BTreeMap<String, usize> {
        let Tenant { org_id, owner, .. } = &self.tenant;
        let channel: Channel = self.endpoints.project[0].clone();
        let mut service = ProjectServiceClient::new(channel);
        let mut names = BTreeMap::new();
        let mut page_token = String::new();
        loop {
            let list = ListProjectsRequest {
                org_id: org_id.clone(),
                page_size: 100,
                page_token,
                ..Default::default()
            };
            let page = service.list_projects(as_person(owner, list)).await.unwrap().into_inner();
            for project in page.projects {
                *names.entry(project.name).or_default() += 1;
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return names;
            }
        }
    }
}

impl Outcome {
    /// Fails unless each call has succeeded in at most two attempts, and nothing was lost or duplicated.
    pub fn require_none_failed(&self) {
        assert!(
            self.failed == 0 && self.lost == 0 && self.duplicated == 0,
            "{self}\n{}",
            self.errors
        );
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.duration.as_secs_f64();
        let rate = f64::from(u32::try_from(self.calls).unwrap_or(u32::MAX)) / seconds;
        write!(
            f,
            "{} calls ({rate:.0}/s) | {} retried | {} failed | {} lost | {} duplicated | {seconds:.1} s",
            self.calls, self.retried, self.failed, self.lost, self.duplicated
        )
    }
}
