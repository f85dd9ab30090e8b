//! Client of the audit log: lists, exports, checkpoints, receipts, and their verification.

use api::audit::{
    self as pb, audit_service_client::AuditServiceClient, log_service_client::LogServiceClient,
};
use serde_json::{Value, json};
use testkit::{Person, Suite, eventually};
use tonic::{Request, Status, transport::Channel};
use verifier::{Checkpoint, Pins, VerifyError, bundle, note, note::VerifierKey, receipt::Receipt};

use super::{raw, world::merge};

/// Adds the session token of a person to a request.
pub(crate) fn as_person<M>(person: &Person, message: M) -> Request<M> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {}", person.token).parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    request
}

/// The audit log of one organization, read by its owner.
pub(crate) struct AuditClient {
    pub(crate) org: String,
    pub(crate) owner: Person,
    pub(crate) channel: Channel,
    pub(crate) pins: Pins,
}

impl AuditClient {
    pub(crate) async fn new(suite: &Suite, owner: &Person, org: &str) -> Self {
        let channel = raw::connect(suite.address).await;
        let mut log = LogServiceClient::new(channel.clone());
        let answer = log.get_verifier_keys(pb::GetVerifierKeysRequest {}).await.unwrap();
        let parse = |key: &String| VerifierKey::parse(key).unwrap();
        let keys = answer.into_inner().verifier_keys.iter().map(parse).collect();
        let pins = Pins { keys, org_id: Some(org.to_owned()), ..Pins::default() };
        Self { org: org.to_owned(), owner: owner.clone(), channel, pins }
    }

    /// A JSON request with the id of the organization and the fields of `more`.
    pub(crate) fn org_request(&self, more: Value) -> Value {
        merge(json!({ "orgId": self.org }), more)
    }

    /// Entries that match a filter, newest first.
    pub(crate) async fn entries(&self, filter: Value) -> Vec<Value> {
        let list = self.org_request(json!({ "filter": filter, "pageSize": 100 }));
        let page = self.owner.call_ok("audit.v1.AuditService/ListEntries", list).await;
        page["entries"].as_array().cloned().unwrap_or_default()
    }

    /// Waits for a signed checkpoint of all events so far.
    pub(crate) async fn checkpoint(&self, suite: &Suite) -> Checkpoint {
        suite.wait_for_log().await;
        eventually("a checkpoint of the whole log", async || {
            let retention = self
                .owner
                .call_ok("audit.v1.AuditService/GetRetention", self.org_request(json!({})))
                .await;
            let size: u64 = retention["size"].as_str()?.parse().ok()?;
            self.newest_checkpoint().await.filter(|it| it.size == size)
        })
        .await
    }

    /// Returns the newest checkpoint; `None` if nothing is signed.
    pub(crate) async fn newest_checkpoint(&self) -> Option<Checkpoint> {
        let get = self.org_request(json!({}));
        let answer = self.owner.call_ok("audit.v1.LogService/GetCheckpoint", get).await;
        note::open(answer["checkpoint"].as_str()?, &self.pins).ok()
    }

    /// Returns the file that the owner exports.
    pub(crate) async fn export(&self, format: pb::ExportFormat) -> Vec<u8> {
        let request = pb::ExportEntriesRequest { format: format.into(), ..Default::default() };
        self.export_as(&self.owner, request).await.unwrap().0
    }

    /// Exports as a person; returns the file and the cursors of its chunks.
    pub(crate) async fn export_as(
        &self,
        person: &Person,
        request: pb::ExportEntriesRequest,
    ) -> Result<(Vec<u8>, Vec<String>), Status> {
        let request = pb::ExportEntriesRequest { org_id: self.org.clone(), ..request };
        let mut client = AuditServiceClient::new(self.channel.clone());
        let mut stream = client.export_entries(as_person(person, request)).await?.into_inner();
        let mut file = vec![];
        let mut cursors = vec![];
        while let Some(chunk) = stream.message().await? {
            file.extend(chunk.chunk);
            cursors.push(chunk.cursor);
        }
        Ok((file, cursors))
    }

    /// Verifies a bundle with the keys of this log.
    pub(crate) fn verify(&self, file: &[u8]) -> Result<bundle::Report, VerifyError> {
        bundle::verify(file, &self.pins, |_| None, |_| ())
    }

    /// Waits until a person can get the receipt of an event.
    pub(crate) async fn receipt(&self, person: &Person, event_id: &str) -> Receipt {
        let answer = eventually("a receipt", async || {
            let get = json!({ "eventId": event_id });
            person.call("audit.v1.LogService/GetReceipt", get).await.ok()
        });
        Receipt::from_json(&answer.await).unwrap()
    }
}
