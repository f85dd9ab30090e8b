//! Storage of organizations, through the project service, which has the secrets of the connections.

mod wire;

use std::time::Duration;

use api::project::storage_object_service_client::StorageObjectServiceClient;
use chassis::{Call, Db, OrgId, Result, Tx, channel::ServiceChannel, error::remote};
use tokio_util::sync::CancellationToken;
use tonic::Request;
use uuid::Uuid;
use worker::{Progress, Schedule};

use super::{ExportSinkId, store};

/// Largest object, in bytes.
pub(super) const OBJECT_BYTES_MAX: usize = 3 << 20;

/// Time limit of the writing of one object.
pub(super) const PUT_TIMEOUT: Duration = Duration::from_secs(30);

/// Time limit of the removal of a registration.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Interval of the search for registrations that are left over.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(60);

/// The storage of all organizations.
#[derive(Clone)]
pub(super) struct Storage {
    pub(super) project: ServiceChannel,
}

/// Use of a connection by a sink.
pub(super) struct StorageUse {
    pub(super) org_id: OrgId,
    pub(super) sink_id: ExportSinkId,
    pub(super) storage_connection_id: Uuid,
    /// Name of the sink.
    pub(super) name: String,
}

/// An object to write.
pub(super) struct Object {
    pub(super) org_id: OrgId,
    pub(super) storage_connection_id: Uuid,
    /// Name below the prefix or the directory of the connection.
    pub(super) key: String,
    /// Content, at most [`OBJECT_BYTES_MAX`].
    pub(super) data: Vec<u8>,
}

impl Storage {
    fn client(&self) -> StorageObjectServiceClient<ServiceChannel> {
        StorageObjectServiceClient::new(self.project.clone())
    }

    /// Registers a use in place of an earlier one of the sink. Fails with NOT_FOUND if the organization has
    /// no such connection.
    pub(super) async fn register<M>(&self, call: &Call<M>, storage_use: &StorageUse) -> Result<()> {
        let request = call.forward(wire::register(storage_use));
        self.client().register_storage_use(request).await.map_err(remote("project"))?;
        Ok(())
    }

    /// Removes the registration of a sink that does not exist any more.
    pub(super) async fn remove(&self, db: &Db, org_id: OrgId, id: ExportSinkId) -> Result<()> {
        let mut request = Request::new(wire::remove(org_id, id));
        request.set_timeout(REMOVE_TIMEOUT);
        self.client().remove_storage_use(request).await.map_err(remote("project"))?;
        let delete = async |tx: &mut Tx| store::storage_use::delete(tx, org_id, id).await;
        db.write_as_system("audit export", delete).await
    }

    /// Writes an object in place of one with its name.
    pub(super) async fn put(&self, object: Object) -> Result<()> {
        let mut request = Request::new(wire::put(object));
        request.set_timeout(PUT_TIMEOUT);
        self.client().put_object(request).await.map_err(remote("project"))?;
        Ok(())
    }
}

/// Removes registrations without a sink until `stop`.
pub(super) async fn run_cleanup(
    db: Db,
    storage: Storage,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let step = || async {
        for left_over in store::storage_use::left_over(&db).await? {
            storage.remove(&db, left_over.org_id, left_over.sink_id).await?;
        }
        Ok(Progress::Idle)
    };
    let schedule = Schedule::every(CLEANUP_INTERVAL);
    worker::run("audit export registrations".to_owned(), schedule, stop, step).await;
    Ok(())
}
