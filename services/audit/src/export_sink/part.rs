//! Parts: consecutive entries that the log received on one day, as objects of one or more formats.

mod ndjson;
mod parquet;
pub(super) mod reader;

use chassis::Result;

use super::{
    storage::{OBJECT_BYTES_MAX, Object},
    worker::LeasedSink,
};
use crate::{entry::EntryRow, export::record::Record, merkle::Hash, seal::LeafKeys};

/// Largest number of entries of a part. If so many wait, they are exported at once.
pub(super) const PART_ENTRIES_MAX: i64 = 5_000;

/// Largest size of the leaves of a part, in bytes. Its objects are about as long: the compression makes up
/// for what they have besides.
const PART_LEAF_BYTES_MAX: usize = 2 << 20;

/// Folder of entries of which only the hash remains.
const PURGED_FOLDER: &str = "purged";

/// A part from the first entry that is not exported yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PartPlan {
    /// End of its range, exclusive.
    pub(super) end: i64,
    /// `date=<day>`, or [`PURGED_FOLDER`].
    pub(super) folder: String,
}

/// An entry of a part.
struct PartEntry {
    index: i64,
    leaf_hash: Hash,
    /// `None` for an entry that is purged or past the retention.
    content: Option<Content>,
}

/// Content of an entry.
struct Content {
    row: EntryRow,
    /// Keys that open the sealed fields of the leaf.
    keys: LeafKeys,
    /// True if the leaf has a credential in a URL.
    is_leaf_withheld: bool,
    /// The entry as canonical protobuf JSON of `tenantry.audit.v1.Entry`.
    json: serde_json::Value,
    record: Record,
}

/// A part with its entries.
pub(super) struct Part {
    pub(super) plan: PartPlan,
    /// In order, without a gap.
    entries: Vec<PartEntry>,
}

impl Part {
    /// Encodes the part in the formats of a sink. `None`: an object would be larger than the storage accepts.
    pub(super) fn objects(&self, sink: &LeasedSink) -> Result<Option<Vec<Object>>> {
        let mut objects = vec![];
        if sink.ndjson {
            objects.push(self.object(sink, "ndjson.gz", ndjson::encode(&self.entries)?));
        }
        if sink.parquet {
            objects.push(self.object(sink, "parquet", parquet::encode(&self.entries)?));
        }
        let is_small = objects.iter().all(|it| it.data.len() <= OBJECT_BYTES_MAX);
        Ok(is_small.then_some(objects))
    }

    fn object(&self, sink: &LeasedSink, extension: &str, data: Vec<u8>) -> Object {
        let PartPlan { end, folder } = &self.plan;
        let name = format!("part-{}-{}.{extension}", sink.next_index, end - 1);
        sink.object(&format!("{folder}/{name}"), data)
    }

    /// Cuts off the second half of the entries. False: there is only one.
    pub(super) fn halve(&mut self) -> bool {
        let count = self.entries.len();
        self.entries.truncate(count.div_ceil(2));
        if let Some(last) = self.entries.last() {
            self.plan.end = last.index + 1;
        }
        self.entries.len() < count
    }
}

#[cfg(test)]
mod tests {
    use api::{
        audit::Entry,
        event::{Activity, Envelope},
    };
    use aws_lc_rs::rand;
    use chassis::OrgId;
    use serde_json::Value;
    use time::OffsetDateTime;
    use uuid::Uuid;

    use super::*;
    use crate::{export_sink::ExportSinkId, merkle::leaf_hash};

    fn entry(index: i64) -> PartEntry {
        let mut leaf = vec![0; 60 << 10];
        rand::fill(&mut leaf).unwrap();
        let row = EntryRow {
            index,
            event_id: Uuid::nil(),
            received_at: OffsetDateTime::UNIX_EPOCH,
            flags: 0,
            leaf,
        };
        let record = Record {
            entry: Entry::default(),
            envelope: Envelope::default(),
            activity: Activity::Other,
            event: Value::Null,
        };
        let content = Content {
            keys: LeafKeys::new(),
            is_leaf_withheld: false,
            json: Value::Null,
            record,
            row,
        };
        PartEntry { index, leaf_hash: leaf_hash(&content.row.leaf), content: Some(content) }
    }

    /// Leaves that cannot be compressed, more than an object may have.
    #[test]
    fn a_part_is_cut_until_its_objects_are_small_enough() {
        let sink = LeasedSink {
            org_id: OrgId(Uuid::nil()),
            id: ExportSinkId(Uuid::nil()),
            lease: Uuid::nil(),
            storage_connection_id: Uuid::nil(),
            prefix: "log".to_owned(),
            ndjson: true,
            parquet: true,
            next_index: 100,
            part: None,
            checkpoint_size: 100,
        };
        let plan = PartPlan { end: 164, folder: "date=2026-11-27".to_owned() };
        let mut part = Part { plan, entries: (100..164).map(entry).collect() };
        assert!(part.objects(&sink).unwrap().is_none());
        assert!(part.halve());
        let objects = part.objects(&sink).unwrap().unwrap();
        let keys: Vec<_> = objects.iter().map(|it| it.key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "log/date=2026-11-27/part-100-131.ndjson.gz",
                "log/date=2026-11-27/part-100-131.parquet"
            ]
        );
        assert!(objects.iter().all(|it| it.data.len() <= OBJECT_BYTES_MAX));
        assert_eq!((part.plan.end, part.entries.len()), (132, 32));
        part.entries.truncate(1);
        assert!(!part.halve(), "one entry is not cut");
    }
}
