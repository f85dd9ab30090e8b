//! The audit log as an auditor has it: exports, heads, and the verifier.

use api::audit::{
    self as pb, audit_service_client::AuditServiceClient, log_service_client::LogServiceClient,
};
use serde_json::{Value, json};
use testkit::{Person, Suite, eventually};
use tonic::{Request, Status, transport::Channel};
use verifier::{Head, Pins, Refused, bundle, note, note::VerifierKey, receipt::Receipt};

use crate::raw;

/// A request of somebody who signed in.
pub(crate) fn as_person<M>(person: &Person, message: M) -> Request<M> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {}", person.token).parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    request
}

/// The log of one organization.
pub(crate) struct Ledger {
    pub(crate) org: String,
    pub(crate) owner: Person,
    pub(crate) channel: Channel,
    pub(crate) pins: Pins,
}

impl Ledger {
    pub(crate) async fn new(suite: &Suite, owner: &Person, org: &str) -> Self {
        let channel = raw::connect(suite.address).await;
        let keys = LogServiceClient::new(channel.clone());
        let keys = keys.clone().get_verifier_keys(pb::GetVerifierKeysRequest {}).await.unwrap();
        let parse = |it: &String| VerifierKey::parse(it).unwrap();
        let keys = keys.into_inner().verifier_keys.iter().map(parse).collect();
        let pins = Pins { keys, org_id: Some(org.to_owned()) };
        Self { org: org.to_owned(), owner: owner.clone(), channel, pins }
    }

    /// A request about the organization.
    pub(crate) fn here(&self, more: Value) -> Value {
        crate::world::merge(json!({ "orgId": self.org }), more)
    }

    /// Entries that a filter finds, newest first.
    pub(crate) async fn find(&self, filter: Value) -> Vec<Value> {
        let list = self.here(json!({ "filter": filter, "pageSize": 100 }));
        let page = self.owner.tell("audit.v1.AuditService/ListEntries", list).await;
        page["entries"].as_array().cloned().unwrap_or_default()
    }

    /// The newest signed head, once it covers everything that was written.
    pub(crate) async fn head(&self, suite: &Suite) -> Head {
        suite.logged().await;
        eventually("a head that covers the log", async || {
            let kept =
                self.owner.tell("audit.v1.AuditService/GetRetention", self.here(json!({}))).await;
            let head =
                self.owner.tell("audit.v1.LogService/GetCheckpoint", self.here(json!({}))).await;
            let size: u64 = kept["size"].as_str()?.parse().ok()?;
            let head = note::open(head["checkpoint"].as_str()?, &self.pins).ok()?;
            (head.size == size).then_some(head)
        })
        .await
    }

    /// An export as a file.
    pub(crate) async fn export(&self, format: pb::ExportFormat) -> Vec<u8> {
        let request = pb::ExportEntriesRequest { format: format.into(), ..Default::default() };
        self.export_as(&self.owner, request).await.unwrap().0
    }

    /// An export of somebody; the file, and the cursors of its chunks.
    pub(crate) async fn export_as(
        &self,
        person: &Person,
        request: pb::ExportEntriesRequest,
    ) -> Result<(Vec<u8>, Vec<String>), Status> {
        let request = pb::ExportEntriesRequest { org_id: self.org.clone(), ..request };
        let mut client = AuditServiceClient::new(self.channel.clone());
        let mut stream = client.export_entries(as_person(person, request)).await?.into_inner();
        let (mut file, mut cursors) = (vec![], vec![]);
        while let Some(chunk) = stream.message().await? {
            file.extend(chunk.chunk);
            cursors.push(chunk.cursor);
        }
        Ok((file, cursors))
    }

    /// What the verifier says about a bundle.
    pub(crate) fn verify(&self, file: &[u8]) -> Result<bundle::Report, Refused> {
        bundle::verify(file, &self.pins, |_| None, |_| ())
    }

    /// A receipt of somebody, once it is signed.
    pub(crate) async fn receipt(&self, person: &Person, event_id: &str) -> Receipt {
        let answer = eventually("a receipt", async || {
            let get = json!({ "eventId": event_id });
            person.ask("audit.v1.LogService/GetReceipt", get).await.ok()
        });
        Receipt::from_json(&answer.await).unwrap()
    }
}
