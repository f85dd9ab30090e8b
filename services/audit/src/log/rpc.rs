//! gRPC surface of `IngestService`: services hand over and confirm events directly, beside the event broker.

use std::{collections::BTreeSet, sync::Arc};

use api::audit::{self as pb, ingest_service_server::IngestService};
use chassis::{Call, Db, Error, Reply, Result, Tx, reply};
use eventing::{Delivery, Subscriber};
use tonic::Request;
use uuid::Uuid;

use super::{append::LogAppender, store};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) appender: Arc<LogAppender>,
    /// Defers events of damaged logs.
    pub(crate) subscriber: Subscriber,
}

#[tonic::async_trait]
impl IngestService for Rpc {
    async fn append(&self, request: Request<pb::AppendRequest>) -> Reply<pb::AppendResponse> {
        let call = Call::of(request)?;
        let source = calling_service(&call)?;
        let envelopes = call.message.envelopes.iter();
        let batch: Vec<_> = envelopes.map(|it| Delivery::of(&source, it.clone())).collect();
        let mut blocked = vec![];
        let append = async |tx: &mut Tx| {
            let unrecorded = self.appender.append(tx, &batch).await?;
            let held = unrecorded.out_of_order.iter().chain(&unrecorded.blocked);
            let held_event_ids = held.map(ToString::to_string).collect();
            blocked = unrecorded.blocked;
            Ok(pb::AppendResponse { held_event_ids })
        };
        let response = self.db.write(&call, append).await?;
        self.subscriber.defer_blocked(&batch, &blocked).await?;
        reply(response)
    }

    async fn confirm(&self, request: Request<pb::ConfirmRequest>) -> Reply<pb::ConfirmResponse> {
        let call = Call::of(request)?;
        calling_service(&call)?;
        let parse = |id: &String| chassis::id::parse("event_ids", id);
        let ids = call.message.event_ids.iter().map(parse).collect::<Result<Vec<Uuid>>>()?;
        let received = store::find_received(&self.db, &ids).await?;
        reply(pb::ConfirmResponse { missing: missing_positions(&ids, &received) })
    }
}

/// Returns the positions in `ids` of the events that were not received.
fn missing_positions(ids: &[Uuid], received: &BTreeSet<Uuid>) -> Vec<i32> {
    let missing = (0..).zip(ids).filter(|(_, id)| !received.contains(id));
    missing.map(|(position, _)| position).collect()
}

/// Returns the service that calls, authenticated by its certificate or by running in this process.
fn calling_service<M>(call: &Call<M>) -> Result<String> {
    call.service.clone().ok_or_else(Error::invalid_credential)
}
