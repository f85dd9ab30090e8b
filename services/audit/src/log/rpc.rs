//! The gRPC surface of the log.

use std::sync::Arc;

use api::{
    audit::{self as pb, audit_service_server::AuditService},
    error::Reason,
    event::Envelope,
};
use chassis::{
    Access, Call, Code, Db, Error, Reply, Tx, outbox::Delivery, page::Pager, reply, timestamp,
};
use prost::Message;
use tonic::Request;
use uuid::Uuid;

use super::{Entry, Filter, store};
use crate::checkpoint::Signer;

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) signer: Arc<Signer>,
}

#[tonic::async_trait]
impl AuditService for Rpc {
    async fn list_entries(
        &self,
        request: Request<pb::ListEntriesRequest>,
    ) -> Reply<pb::ListEntriesResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.org(&call, &it.org_id).await?;
        let binding = [it.org_id.as_str(), &it.project_id, &it.event_type, &it.actor_id];
        let page = self.pager.page(&call, it.page_size, &it.page_token, &binding)?;
        let rows = store::list(&self.db, grant.org_id(), &Filter::from(it), &page).await?;
        let (rows, next_page_token) = page.cut(rows, |it| it.index.to_string());
        let entries = rows.into_iter().map(entry).collect::<Result<_, _>>()?;
        reply(pb::ListEntriesResponse { entries, next_page_token })
    }

    async fn list_account_entries(
        &self,
        request: Request<pb::ListAccountEntriesRequest>,
    ) -> Reply<pb::ListAccountEntriesResponse> {
        let call = Call::of(request)?;
        let page = self.pager.page(&call, call.message.page_size, &call.message.page_token, &[])?;
        let rows = store::list_of_account(&self.db, call.account()?.user_id, &page).await?;
        let (rows, next_page_token) = page.cut(rows, |it| it.index.to_string());
        let entries = rows.into_iter().map(entry).collect::<Result<_, _>>()?;
        reply(pb::ListAccountEntriesResponse { entries, next_page_token })
    }

    async fn get_checkpoint(
        &self,
        request: Request<pb::GetCheckpointRequest>,
    ) -> Reply<pb::GetCheckpointResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let checkpoint = store::checkpoint(&self.db, grant.org_id()).await?;
        reply(pb::GetCheckpointResponse {
            checkpoint: checkpoint.map(|it| it.1).unwrap_or_default(),
        })
    }

    async fn get_inclusion_proof(
        &self,
        request: Request<pb::GetInclusionProofRequest>,
    ) -> Reply<pb::GetInclusionProofResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let event_id = call.message.event_id.parse().map_err(|_| Error::NotFound("entry"))?;
        let entry = store::get(&self.db, grant.org_id(), event_id).await?;
        let entry = entry.ok_or(Error::NotFound("entry"))?;
        let head = store::checkpoint(&self.db, grant.org_id()).await?;
        let covers =
            |it: &(u64, String)| u64::try_from(entry.index).is_ok_and(|index| index < it.0);
        let (size, checkpoint) = head.filter(covers).ok_or_else(not_yet_signed)?;
        let hashes = store::inclusion(&self.db, grant.org_id(), entry.index, size).await?;
        let hashes = hashes.into_iter().map(|it| it.to_vec()).collect();
        reply(pb::GetInclusionProofResponse {
            index: entry.index,
            leaf: entry.leaf,
            hashes,
            checkpoint,
        })
    }

    async fn get_verifier_key(
        &self,
        request: Request<pb::GetVerifierKeyRequest>,
    ) -> Reply<pb::GetVerifierKeyResponse> {
        Call::of(request)?;
        reply(pb::GetVerifierKeyResponse { verifier_key: self.signer.verifier_key() })
    }

    async fn append(&self, request: Request<pb::AppendRequest>) -> Reply<pb::AppendResponse> {
        let call = Call::of(request)?;
        let mut events = vec![];
        for (i, envelope) in call.message.envelopes.iter().enumerate() {
            let event = Delivery::of(envelope.clone()).ok();
            // a service writes events of its own, no others.
            let event = event.filter(|it| call.service.as_deref() == Some(it.source.as_str()));
            let wrong = || {
                Error::invalid(format!("envelopes[{i}]"), "must be an event of the calling service")
            };
            events.push(event.ok_or_else(wrong)?);
        }
        let append = async |tx: &mut Tx| {
            let appended = store::append(tx, events).await?;
            Ok(pb::AppendResponse { appended: i32::try_from(appended).unwrap_or(i32::MAX) })
        };
        reply(self.db.write(&call, append).await?)
    }
}

impl From<&pb::ListEntriesRequest> for Filter {
    fn from(it: &pb::ListEntriesRequest) -> Self {
        let given = |it: &String| Some(it.clone()).filter(|it| !it.is_empty());
        Self {
            project_id: Uuid::try_parse(&it.project_id).ok(),
            event_type: given(&it.event_type),
            actor_id: given(&it.actor_id),
        }
    }
}

fn entry(it: Entry) -> Result<pb::Entry, Error> {
    Ok(pb::Entry {
        index: it.index,
        envelope: Some(Envelope::decode(&*it.leaf).map_err(anyhow::Error::from)?),
        receive_time: Some(timestamp(it.received_at)),
        leaf_hash: it.leaf_hash,
    })
}

fn not_yet_signed() -> Error {
    Error::Refused {
        code: Code::FailedPrecondition,
        reason: Reason::NotYetSigned,
        message: "no signed checkpoint covers the entry yet; retry in a second".to_owned(),
        metadata: vec![],
    }
}
