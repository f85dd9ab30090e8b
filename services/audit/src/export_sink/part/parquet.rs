//! Parts as Apache Parquet: one row group with one row for each entry. Rows of entries of which only the hash
//! remains have only `index` and `leaf_hash`.

use std::sync::Arc;

use anyhow::Context;
use chassis::{Result, datetime};
use parquet::{
    basic::{Compression, GzipLevel},
    data_type::{ByteArray, ByteArrayType, Int64Type},
    file::{
        properties::WriterProperties,
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    schema::parser::parse_message_type,
};

use super::{Content, PartEntry};
use crate::merkle::Hash;

/// Columns. `time` is the time at which the log received the entry, `data` the entry as JSON of
/// `tenantry.audit.v1.Entry`.
const SCHEMA: &str = "
    message entry {
        required int64 index;
        optional int64 time (TIMESTAMP(MICROS,true));
        optional byte_array event_type (STRING);
        optional byte_array action (STRING);
        optional byte_array actor_id (STRING);
        optional byte_array actor_name (STRING);
        optional byte_array target_kind (STRING);
        optional byte_array target_id (STRING);
        optional byte_array target_name (STRING);
        optional byte_array project_id (STRING);
        optional byte_array data (STRING);
        required byte_array leaf_hash;
    }";

type RowGroup<'a> = SerializedRowGroupWriter<'a, Vec<u8>>;

/// Text of a column of an entry.
type Text = fn(&Content) -> String;

/// The columns of texts, in the order of the schema.
const TEXTS: [Text; 9] = [
    |it| {
        let event = it.record.envelope.event.as_ref();
        let name = event.and_then(|it| it.type_url.rsplit('/').next());
        name.unwrap_or_default().to_owned()
    },
    |it| it.record.entry.action.clone(),
    |it| it.record.envelope.actor.as_ref().map(|it| it.id.clone()).unwrap_or_default(),
    |it| it.record.envelope.actor.as_ref().map(|it| it.name.clone()).unwrap_or_default(),
    |it| it.record.envelope.resource.as_ref().map(|it| it.kind.clone()).unwrap_or_default(),
    |it| it.record.envelope.resource.as_ref().map(|it| it.id.clone()).unwrap_or_default(),
    |it| it.record.envelope.resource.as_ref().map(|it| it.name.clone()).unwrap_or_default(),
    |it| it.record.envelope.project_id.clone(),
    |it| it.json.to_string(),
];

/// Encodes entries.
pub(super) fn encode(entries: &[PartEntry]) -> Result<Vec<u8>> {
    Ok(try_encode(entries).context("a part cannot be encoded as Parquet")?)
}

fn try_encode(entries: &[PartEntry]) -> anyhow::Result<Vec<u8>> {
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let properties = WriterProperties::builder();
    let properties = properties.set_compression(Compression::GZIP(GzipLevel::default())).build();
    let mut file = SerializedFileWriter::new(vec![], schema, Arc::new(properties))?;
    let mut rows = file.next_row_group()?;
    let indexes: Vec<i64> = entries.iter().map(|it| it.index).collect();
    write_numbers(&mut rows, &indexes, None)?;
    let is_present: Vec<i16> = entries.iter().map(|it| it.content.is_some().into()).collect();
    let contents: Vec<&Content> = entries.iter().filter_map(|it| it.content.as_ref()).collect();
    let times: Vec<i64> = contents.iter().map(|it| micros(it)).collect();
    write_numbers(&mut rows, &times, Some(&is_present))?;
    for text in TEXTS {
        let texts: Vec<ByteArray> =
            contents.iter().map(|it| text(it).into_bytes().into()).collect();
        write_texts(&mut rows, &texts, Some(&is_present))?;
    }
    let hash = |it: &Hash| ByteArray::from(it.to_vec());
    let hashes: Vec<ByteArray> = entries.iter().map(|it| hash(&it.leaf_hash)).collect();
    write_texts(&mut rows, &hashes, None)?;
    rows.close()?;
    Ok(file.into_inner()?)
}

/// Microseconds since 1970 at which the log received an entry.
fn micros(content: &Content) -> i64 {
    let time = content.record.entry.receive_time.and_then(datetime);
    let micros = time.map(|it| it.unix_timestamp_nanos() / 1_000).unwrap_or_default();
    i64::try_from(micros).unwrap_or_default()
}

/// Writes the next column. `is_present`: 1 for a row with a value, else 0; `None` for a required column.
fn write_numbers(
    rows: &mut RowGroup<'_>,
    values: &[i64],
    is_present: Option<&[i16]>,
) -> anyhow::Result<()> {
    let mut column = rows.next_column()?.context("the schema has the column")?;
    column.typed::<Int64Type>().write_batch(values, is_present, None)?;
    Ok(column.close()?)
}

/// Writes the next column, as [`write_numbers`] does.
fn write_texts(
    rows: &mut RowGroup<'_>,
    values: &[ByteArray],
    is_present: Option<&[i16]>,
) -> anyhow::Result<()> {
    let mut column = rows.next_column()?.context("the schema has the column")?;
    column.typed::<ByteArrayType>().write_batch(values, is_present, None)?;
    Ok(column.close()?)
}
