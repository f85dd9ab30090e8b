//! What services say to the log beside the broker.

use std::sync::Arc;

use api::audit::{self as pb, ingest_service_server::IngestService};
use chassis::{Call, Db, Error, Reply, Result, Tx, outbox::Delivery, reply};
use tonic::Request;
use uuid::Uuid;

use super::{ingest::Ledger, store};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) ledger: Arc<Ledger>,
}

#[tonic::async_trait]
impl IngestService for Rpc {
    async fn append(&self, request: Request<pb::AppendRequest>) -> Reply<pb::AppendResponse> {
        let call = Call::of(request)?;
        let source = source(&call)?;
        let envelopes = &call.message.envelopes;
        let events: Vec<_> = envelopes.iter().map(|it| Delivery::of(&source, it.clone())).collect();
        let append = async |tx: &mut Tx| {
            let held = self.ledger.append(tx, &events).await?;
            Ok(pb::AppendResponse { held_event_ids: held.into_iter().map(Into::into).collect() })
        };
        reply(self.db.write(&call, append).await?)
    }

    async fn confirm(&self, request: Request<pb::ConfirmRequest>) -> Reply<pb::ConfirmResponse> {
        let call = Call::of(request)?;
        source(&call)?;
        let parse = |it: &String| chassis::id::parse("event_ids", it);
        let ids = call.message.event_ids.iter().map(parse).collect::<Result<Vec<Uuid>>>()?;
        let known = store::logged(&self.db, &ids).await?;
        let missing = ids.iter().zip(0..).filter(|it| !known.contains(it.0)).map(|it| it.1);
        reply(pb::ConfirmResponse { missing: missing.collect() })
    }
}

/// The service that calls, proven by its certificate or by living in this process.
fn source<M>(call: &Call<M>) -> Result<String> {
    call.service.clone().ok_or_else(Error::bad_credential)
}
