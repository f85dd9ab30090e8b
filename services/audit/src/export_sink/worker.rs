//! Worker of the continuous export. It leases sinks, so that only one process exports to each, and writes the
//! parts up to the newest checkpoint, then the checkpoint. The range of a part is stored before its objects
//! are written, and the position after, so that a repetition replaces the same objects.

use chassis::{Db, Error, OrgId, Result, Tx, foreign_text::clean_line};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use worker::{Progress, Schedule};

use super::{
    ExportSinkId,
    part::{Part, PartPlan, reader::PartReader},
    storage::{Object, Storage},
    store::progress,
};
use crate::{db_int::to_db_int, proof::store::SignedTree};

/// Interval of the search for sinks that have something to export.
const POLL_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

/// Largest number of sinks that one process exports to at a time.
const LEASES_MAX: i64 = 4;

/// Largest number of parts that are written before the sink is released, so that one long log does not delay
/// the others.
const PARTS_MAX: usize = 20;

/// Longest stored error, in bytes.
const ERROR_BYTES_MAX: usize = 1_000;

/// Worker of the continuous export.
pub(super) struct ExportWorker {
    pub(super) db: Db,
    pub(super) parts: PartReader,
    pub(super) storage: Storage,
}

/// A sink that this process exports to.
#[derive(Clone, Debug)]
pub(super) struct LeasedSink {
    pub(super) org_id: OrgId,
    pub(super) id: ExportSinkId,
    /// Token of the lease.
    pub(super) lease: Uuid,
    pub(super) storage_connection_id: Uuid,
    pub(super) prefix: String,
    pub(super) ndjson: bool,
    pub(super) parquet: bool,
    /// All entries before this index are stored.
    pub(super) next_index: i64,
    /// The part that an earlier attempt began to write.
    pub(super) part: Option<PartPlan>,
    /// Entries that the stored checkpoint covers.
    pub(super) checkpoint_size: i64,
}

impl LeasedSink {
    /// An object below the prefix of the sink.
    pub(super) fn object(&self, name: &str, data: Vec<u8>) -> Object {
        Object {
            org_id: self.org_id,
            storage_connection_id: self.storage_connection_id,
            key: format!("{}/{name}", self.prefix),
            data,
        }
    }
}

impl ExportWorker {
    /// Runs until the process ends; a part that is being written is completed.
    pub(super) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let schedule = Schedule::polling(&self.db, POLL_INTERVAL);
        let step = || async {
            let token = chassis::id::new();
            let lease = async |tx: &mut Tx| progress::lease(tx, token, LEASES_MAX).await;
            let sinks = self.db.write_as_system("audit export", lease).await?;
            let is_busy = !sinks.is_empty();
            let exports = sinks.into_iter().map(|sink| self.serve(sink, &stop));
            futures::future::join_all(exports).await;
            Ok(Progress::busy_if(is_busy))
        };
        worker::run("audit export".to_owned(), schedule, stop.clone(), step).await;
        Ok(())
    }

    /// Exports to a leased sink, and releases it.
    async fn serve(&self, mut sink: LeasedSink, stop: &CancellationToken) {
        let exported = self.export(&mut sink, stop).await;
        let failure = exported.err().map(|it| describe(&it));
        let released = worker::record("audit export", || self.release(&sink, failure.as_deref()));
        if let Err(error) = released.await {
            let error = chassis::error::causes(&error);
            tracing::warn!(sink_id = %sink.id, error, "a sink is released at the end of its lease only");
        }
    }

    /// Ends the lease of a sink, and stores the failure of its export.
    async fn release(&self, sink: &LeasedSink, failure: Option<&str>) -> Result<()> {
        let release = async |tx: &mut Tx| {
            if let Some(failure) = failure {
                progress::record_failure(tx, sink, failure).await?;
            }
            progress::release(tx, sink).await
        };
        self.db.write_as_system("audit export", release).await
    }

    /// Writes parts up to the newest checkpoint, then the checkpoint.
    async fn export(&self, sink: &mut LeasedSink, stop: &CancellationToken) -> Result<()> {
        let Some(signed) = self.parts.signed_tree(sink.org_id).await? else { return Ok(()) };
        let end = to_db_int(signed.size)?;
        for _ in 0..PARTS_MAX {
            if sink.next_index >= end {
                return self.write_checkpoint(sink, &signed).await;
            }
            if stop.is_cancelled() || !self.write_part(sink, &signed, end).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Writes the next part before `end`. False: the lease was lost, or the sink was paused or deleted.
    async fn write_part(
        &self,
        sink: &mut LeasedSink,
        signed: &SignedTree,
        end: i64,
    ) -> Result<bool> {
        let mut part = match sink.part.take() {
            Some(plan) => self.parts.planned(signed, sink.next_index, plan).await?,
            None => self.parts.next(signed, sink.next_index..end).await?,
        };
        let objects = encode(&mut part, sink)?;
        let plan = async |tx: &mut Tx| progress::set_part(tx, sink, &part.plan).await;
        if !self.db.write_as_system("audit export", plan).await? {
            return Ok(false);
        }
        for object in objects {
            if !self.put(sink, object).await? {
                return Ok(false);
            }
        }
        let finish = async |tx: &mut Tx| progress::finish_part(tx, sink, &part.plan).await;
        let is_stored = self.db.write_as_system("audit export", finish).await?;
        sink.next_index = part.plan.end;
        Ok(is_stored)
    }

    /// Writes the checkpoint of all exported entries, if it is newer than the stored one.
    async fn write_checkpoint(&self, sink: &LeasedSink, signed: &SignedTree) -> Result<()> {
        let is_stored = sink.next_index == sink.checkpoint_size;
        if is_stored || to_db_int(signed.size)? != sink.next_index {
            return Ok(());
        }
        let object = sink.object("checkpoint", signed.note.clone().into_bytes());
        if self.put(sink, object).await? {
            let finish = async |tx: &mut Tx| progress::finish_checkpoint(tx, sink).await;
            self.db.write_as_system("audit export", finish).await?;
        }
        Ok(())
    }

    /// Renews the lease, and writes an object. False: as for [`Self::write_part`].
    async fn put(&self, sink: &LeasedSink, object: Object) -> Result<bool> {
        let renew = async |tx: &mut Tx| progress::renew(tx, sink).await;
        if !self.db.write_as_system("audit export", renew).await? {
            return Ok(false);
        }
        self.storage.put(object).await?;
        Ok(true)
    }
}

/// Encodes a part, of which entries are cut off until its objects are small enough.
fn encode(part: &mut Part, sink: &LeasedSink) -> Result<Vec<Object>> {
    loop {
        if let Some(objects) = part.objects(sink)? {
            return Ok(objects);
        }
        if !part.halve() {
            let message = "an entry is larger than an object of the storage may be";
            return Err(anyhow::anyhow!(message).into());
        }
    }
}

/// Text of an error for the members of the organization. An internal error is logged instead.
fn describe(error: &Error) -> String {
    if let Error::Database(_) | Error::Internal(_) = error {
        tracing::warn!(?error, "a continuous export failed; it is repeated");
    }
    clean_line(&error.to_string(), ERROR_BYTES_MAX)
}
