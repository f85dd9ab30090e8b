//! Requests to the service of objects in storage.

use api::project as pb;
use chassis::OrgId;

use super::{Object, StorageUse};
use crate::export_sink::ExportSinkId;

/// Returns the request that registers a use.
pub(super) fn register(storage_use: &StorageUse) -> pb::RegisterStorageUseRequest {
    pb::RegisterStorageUseRequest {
        org_id: storage_use.org_id.into(),
        storage_connection_id: storage_use.storage_connection_id.to_string(),
        consumer_id: storage_use.sink_id.into(),
        name: storage_use.name.clone(),
    }
}

/// Returns the request that removes the registration of a sink.
pub(super) fn remove(org_id: OrgId, id: ExportSinkId) -> pb::RemoveStorageUseRequest {
    pb::RemoveStorageUseRequest { org_id: org_id.into(), consumer_id: id.into() }
}

/// Returns the request that writes an object.
pub(super) fn put(object: Object) -> pb::PutObjectRequest {
    pb::PutObjectRequest {
        org_id: object.org_id.into(),
        storage_connection_id: object.storage_connection_id.to_string(),
        key: object.key,
        data: object.data,
    }
}
