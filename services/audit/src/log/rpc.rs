//! gRPC surface of `IngestService`: services hand over and confirm events directly, beside the event broker.

use std::{collections::BTreeSet, sync::Arc};

use api::audit::{self as pb, ingest_service_server::IngestService};
use chassis::{Call, Db, Error, Reply, Result, Tx, reply};
use eventing::Delivery;
use tonic::Request;
use uuid::Uuid;

use super::{append::LogAppender, store};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) appender: Arc<LogAppender>,
}

#[tonic::async_trait]
impl IngestService for Rpc {
    async fn append(&self, request: Request<pb::AppendRequest>) -> Reply<pb::AppendResponse> {
        let call = Call::of(request)?;
        let source = calling_service(&call)?;
        let envelopes = call.message.envelopes.iter();
        let batch: Vec<_> = envelopes.map(|it| Delivery::of(&source, it.clone())).collect();
        let append = async |tx: &mut Tx| {
            let deferred = self.appender.append(tx, &batch).await?;
            let held_event_ids = deferred.into_iter().map(Into::into).collect();
            Ok(pb::AppendResponse { held_event_ids })
        };
        reply(self.db.write(&call, append).await?)
    }

    async fn confirm(&self, request: Request<pb::ConfirmRequest>) -> Reply<pb::ConfirmResponse> {
        let call = Call::of(request)?;
        calling_service(&call)?;
        let parse = |id: &String| chassis::id::parse("event_ids", id);
        let ids = call.message.event_ids.iter().map(parse).collect::<Result<Vec<Uuid>>>()?;
        let logged = store::find_logged(&self.db, &ids).await?;
        reply(pb::ConfirmResponse { missing: missing_positions(&ids, &logged) })
    }
}

/// Returns the positions in `ids` of the events that are not in the log.
fn missing_positions(ids: &[Uuid], logged: &BTreeSet<Uuid>) -> Vec<i32> {
    let missing = (0..).zip(ids).filter(|(_, id)| !logged.contains(id));
    missing.map(|(position, _)| position).collect()
}

/// Returns the service that calls, authenticated by its certificate or by running in this process.
fn calling_service<M>(call: &Call<M>) -> Result<String> {
    call.service.clone().ok_or_else(Error::invalid_credential)
}
