//! An organization whose audit log is exported to a bucket.

use serde_json::{Value, json};
use testkit::{Options, Person, Suite, eventually};

use super::{
    audit_client::AuditClient,
    exported::Exported,
    storage::{StorageSetup, create_folder_connection},
    world::{World, merge, text},
};

/// Service of the sinks.
pub(crate) const SINKS: &str = "audit.v1.AuditExportService";

/// Method that creates a sink.
pub(crate) const CREATE_EXPORT_SINK: &str = "audit.v1.AuditExportService/CreateExportSink";

/// Fields of a sink with a new connection to a folder. The suite needs the option `storage_folder`.
pub(crate) async fn export_sink(owner: &Person, org: &str, name: &str) -> Value {
    let connection = create_folder_connection(owner, org).await;
    let formats = ["EXPORT_SINK_FORMAT_NDJSON"];
    json!({ "orgId": org, "name": name, "storageConnectionId": connection, "formats": formats })
}

/// An organization whose log is exported to a bucket.
pub(crate) struct ExportSetup {
    pub(crate) storage: StorageSetup,
    pub(crate) connection: Value,
    pub(crate) log: AuditClient,
}

impl ExportSetup {
    pub(crate) async fn new(options: Options) -> Self {
        let storage = StorageSetup::with(options).await;
        let connection = storage.create(storage.by_s3(json!({}))).await;
        let log = AuditClient::new(&storage.suite, &storage.world.owner, &storage.world.org).await;
        Self { storage, connection, log }
    }

    pub(crate) fn suite(&self) -> &Suite {
        &self.storage.suite
    }

    pub(crate) async fn call(&self, method: &str, more: Value) -> Value {
        self.log.owner.call_ok(&format!("{SINKS}/{method}"), self.log.org_request(more)).await
    }

    pub(crate) async fn refusal(&self, method: &str, more: Value) -> tenantry::client::CallError {
        let request = self.log.org_request(more);
        self.log.owner.call(&format!("{SINKS}/{method}"), request).await.unwrap_err()
    }

    /// Fields of a sink, replaced by those of `more`.
    pub(crate) fn fields(&self, more: Value) -> Value {
        let fields = json!({
            "name": "Archive of the log", "storageConnectionId": self.connection["id"],
            "prefix": "log", "formats": ["EXPORT_SINK_FORMAT_NDJSON", "EXPORT_SINK_FORMAT_PARQUET"],
        });
        merge(fields, more)
    }

    pub(crate) async fn create(&self, more: Value) -> Value {
        self.call("CreateExportSink", self.fields(more)).await["exportSink"].clone()
    }

    pub(crate) async fn get(&self, sink: &Value) -> Value {
        let id = json!({ "exportSinkId": sink["id"] });
        self.call("GetExportSink", id).await["exportSink"].clone()
    }

    pub(crate) async fn update(&self, sink: &Value, fields: Value, mask: &str) -> Value {
        let named = json!({ "exportSinkId": sink["id"], "updateMask": mask });
        self.call("UpdateExportSink", merge(named, fields)).await["exportSink"].clone()
    }

    /// Adds entries to the log; returns its size when all are signed.
    pub(crate) async fn add_entries(&self, count: usize) -> u64 {
        for _ in 0..count {
            let create = self.log.org_request(json!({ "name": chassis::id::new().to_string() }));
            self.log.owner.call_ok("identity.v1.TeamService/CreateTeam", create).await;
        }
        self.log.checkpoint(self.suite()).await.size
    }

    /// Waits until entries and a checkpoint that covers them are exported.
    pub(crate) async fn wait_for(&self, sink: &Value, size: u64) -> Value {
        eventually("the export", async || {
            let sink = self.get(sink).await;
            let number = |field: &str| text(&sink[field]).parse::<u64>().unwrap_or(0);
            (number("exportedSize") >= size && number("checkpointSize") >= size).then_some(sink)
        })
        .await
    }

    pub(crate) fn exported(&self) -> Exported {
        Exported::read(&self.storage.s3, "log")
    }

    /// Restarts the suite; `between` runs while it is stopped.
    pub(crate) async fn restart(self, between: impl FnOnce(&StoppedStorage)) -> Self {
        let StorageSetup { suite, world, s3, ssh, folder, remote } = self.storage;
        let stopped = Box::pin(suite.halt()).await;
        between(&StoppedStorage { s3: &s3 });
        let suite = Box::pin(stopped.start()).await;
        let owner = self.log.owner;
        let owner = Person { client: suite.client.with_token(&owner.token), ..owner };
        let log = AuditClient::new(&suite, &owner, &world.org).await;
        let world = World { owner, ..world };
        let storage = StorageSetup { suite, world, s3, ssh, folder, remote };
        Self { storage, connection: self.connection, log }
    }
}

/// Storage of a suite that is stopped.
pub(crate) struct StoppedStorage<'a> {
    pub(crate) s3: &'a testkit::S3Server,
}
