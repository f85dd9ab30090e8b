//! Sinks of the continuous export: each writes every entry of the log of its organization to a storage
//! connection, as parts in folders by day, and the checkpoint that covers them.

mod commands;
mod part;
pub(crate) mod rpc;
mod storage;
mod store;
mod wire;
mod worker;

use api::{audit as pb, error::Reason};
use chassis::{Changed, Code, Db, EventTarget, Grant, OrgId, Refusal, UserId};
use host::Host;
use time::OffsetDateTime;
use uuid::Uuid;

use self::{part::reader::PartReader, storage::Storage, worker::ExportWorker};
use crate::entry::read::EntryReader;

chassis::id!(
    /// Identifies a sink.
    ExportSinkId,
    "export_sink"
);

/// Largest number of sinks of one organization.
const SINKS_MAX: i64 = 20;

/// A sink.
#[derive(Clone, Debug)]
struct ExportSink {
    id: ExportSinkId,
    org_id: OrgId,
    name: String,
    storage_connection_id: Uuid,
    /// Beginning of the names of all objects.
    prefix: String,
    /// True if parts are written as JSON Lines.
    ndjson: bool,
    /// True if parts are written as Parquet.
    parquet: bool,
    paused: bool,
    /// Number of changes of settings, from 1 on; its text is the etag.
    version: i64,
    creator_id: UserId,
    created_at: OffsetDateTime,
    updated_at: OffsetDateTime,
    /// All entries before this index are stored.
    next_index: i64,
    /// Entries that the stored checkpoint covers.
    checkpoint_size: i64,
    /// Time of the last export.
    exported_at: Option<OffsetDateTime>,
    /// Failed attempts since the last success.
    failures: i32,
    /// Error of the last attempt; empty if it succeeded.
    last_error: String,
    /// Time before which no attempt is made.
    next_attempt_at: Option<OffsetDateTime>,
}

/// Settings of a new sink.
struct Draft {
    name: String,
    storage_connection_id: Uuid,
    /// Empty for the default.
    prefix: String,
    ndjson: bool,
    parquet: bool,
}

/// Changes of a sink.
struct Patch {
    name: Option<String>,
    paused: Option<bool>,
}

/// Refusals to create or change a sink.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the organization has {0} sinks of the audit log, the maximum; delete one first")]
    Limit(i64),
    #[error("the sink was changed by another call; read it again and repeat the change")]
    Stale,
    #[error("the creation took too long; repeat the call")]
    Abandoned,
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::Limit(_) => Code::ResourceExhausted,
            Self::Stale | Self::Abandoned => Code::Aborted,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::Limit(_) => Reason::ExportSinkLimitReached,
            Self::Stale | Self::Abandoned => Reason::Conflict,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Limit(limit) => vec![("limit", limit.to_string())],
            Self::Stale | Self::Abandoned => vec![],
        }
    }
}

impl ExportSink {
    /// Creates a sink with an id whose use of the connection is registered. `count`: number of sinks that the
    /// organization has.
    fn create(
        id: ExportSinkId,
        grant: &Grant,
        draft: Draft,
        count: i64,
        now: OffsetDateTime,
    ) -> Result<Changed<Self>, Refused> {
        if count >= SINKS_MAX {
            return Err(Refused::Limit(SINKS_MAX));
        }
        let prefix = if draft.prefix.is_empty() { format!("audit-log/{id}") } else { draft.prefix };
        let sink = Self {
            id,
            org_id: grant.org_id(),
            name: draft.name,
            storage_connection_id: draft.storage_connection_id,
            prefix,
            ndjson: draft.ndjson,
            parquet: draft.parquet,
            paused: false,
            version: 1,
            creator_id: grant.account().user_id,
            created_at: now,
            updated_at: now,
            next_index: 0,
            checkpoint_size: 0,
            exported_at: None,
            failures: 0,
            last_error: String::new(),
            next_attempt_at: None,
        };
        let event = pb::ExportSinkCreated { after: Some((&sink).into()) };
        let target = sink.event_target();
        Ok(Changed::new(sink, &event, target))
    }

    /// Changes the name, or pauses or continues the sink. `None`: nothing changes.
    fn update(mut self, patch: Patch, now: OffsetDateTime) -> Option<Changed<Self>> {
        let before = pb::ExportSink::from(&self);
        self.name = patch.name.unwrap_or(self.name);
        self.paused = patch.paused.unwrap_or(self.paused);
        if pb::ExportSink::from(&self) == before {
            return None;
        }
        if self.paused != before.paused {
            self.next_attempt_at = None;
        }
        self.updated_at = now;
        self.version += 1;
        let event = pb::ExportSinkUpdated { before: Some(before), after: Some((&self).into()) };
        let target = self.event_target();
        Some(Changed::new(self, &event, target))
    }

    /// Deletes the sink.
    fn delete(self) -> Changed<Self> {
        let event = pb::ExportSinkDeleted { before: Some((&self).into()) };
        let target = self.event_target();
        Changed::new(self, &event, target)
    }

    /// Refuses an outdated etag; an empty one matches.
    fn require_etag(&self, etag: &str) -> Result<(), Refused> {
        if etag.is_empty() || etag == self.etag() { Ok(()) } else { Err(Refused::Stale) }
    }

    fn etag(&self) -> String {
        self.version.to_string()
    }

    fn event_target(&self) -> EventTarget {
        EventTarget::object("export_sink", self.id, &self.name).in_org(self.org_id)
    }
}

/// Adds the service of sinks and the jobs that export.
pub(crate) fn install(host: &mut Host, db: &Db, entries: &EntryReader) {
    let storage = Storage { project: host.client("audit", "project") };
    host.rpc(api::audit::audit_export_service_server::AuditExportServiceServer::new(rpc::Rpc {
        db: db.clone(),
        access: host.access(),
        pager: host.pager(),
        storage: storage.clone(),
    }));
    let parts = PartReader { entries: entries.clone() };
    let worker = ExportWorker { db: db.clone(), parts, storage: storage.clone() };
    host.task("audit export", move |stop| worker.run(stop));
    let db = db.clone();
    host.task("audit export registrations", move |stop| storage::run_cleanup(db, storage, stop));
}
