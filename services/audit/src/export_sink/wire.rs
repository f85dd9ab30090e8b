//! Conversion between messages of the contract and sinks.

use api::audit::{self as pb, ExportSinkFormat};
use chassis::{Error, Result, mask, timestamp};

use super::{Draft, ExportSink, Patch};

/// Fields that an update mask may name.
const UPDATABLE_FIELDS: [&str; 2] = ["name", "paused"];

impl From<&ExportSink> for pb::ExportSink {
    fn from(sink: &ExportSink) -> Self {
        let formats =
            [(sink.ndjson, ExportSinkFormat::Ndjson), (sink.parquet, ExportSinkFormat::Parquet)];
        let formats = formats.into_iter().filter(|(is_written, _)| *is_written);
        Self {
            id: sink.id.into(),
            org_id: sink.org_id.into(),
            name: sink.name.clone(),
            storage_connection_id: sink.storage_connection_id.to_string(),
            prefix: sink.prefix.clone(),
            formats: formats.map(|(_, format)| format.into()).collect(),
            paused: sink.paused,
            exported_size: sink.next_index,
            checkpoint_size: sink.checkpoint_size,
            last_export_time: sink.exported_at.map(timestamp),
            last_error: sink.last_error.clone(),
            failure_count: sink.failures,
            next_attempt_time: sink.next_attempt_at.map(timestamp),
            creator_id: sink.creator_id.into(),
            create_time: Some(timestamp(sink.created_at)),
            update_time: Some(timestamp(sink.updated_at)),
            etag: sink.etag(),
        }
    }
}

impl Draft {
    /// Converts a request.
    pub(super) fn from_request(message: &pb::CreateExportSinkRequest) -> Result<Self> {
        let has = |format| message.formats().any(|it| it == format);
        if has(ExportSinkFormat::Unspecified) {
            let description = "must have NDJSON, PARQUET or both";
            return Err(Error::invalid("formats", description));
        }
        Ok(Self {
            name: name(&message.name)?,
            storage_connection_id: chassis::id::parse(
                "storage_connection_id",
                &message.storage_connection_id,
            )?,
            prefix: message.prefix.clone(),
            ndjson: has(ExportSinkFormat::Ndjson),
            parquet: has(ExportSinkFormat::Parquet),
        })
    }
}

impl Patch {
    /// Converts a request.
    pub(super) fn from_request(message: &pb::UpdateExportSinkRequest) -> Result<Self> {
        let paths = mask::paths(message.update_mask.as_ref(), &UPDATABLE_FIELDS)?;
        let has_name = paths.contains(&"name");
        Ok(Self {
            name: has_name.then(|| name(&message.name)).transpose()?,
            paused: paths.contains(&"paused").then_some(message.paused),
        })
    }
}

fn name(text: &str) -> Result<String> {
    let name = text.trim();
    if name.is_empty() { Err(Error::invalid("name", "must not be empty")) } else { Ok(name.into()) }
}
