//! Objects of a continuous export, read back as an auditor does.

use std::{collections::BTreeMap, io::Read, path::Path};

use data_encoding::BASE64;
use flate2::read::GzDecoder;
use parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::{Field, RowAccessor},
};
use serde_json::{Value, json};
use testkit::S3Server;
use verifier::{Checkpoint, Pins, bundle, note, tree::RootBuilder};

/// Prefix of the connection, below which the prefixes of sinks are.
const CONNECTION_PREFIX: &str = "tenants/acme";

/// Objects of a sink, by their names below its prefix.
pub(crate) struct Exported {
    pub(crate) objects: BTreeMap<String, Vec<u8>>,
}

/// Indexes of a part, from its name.
struct PartName<'a> {
    name: &'a str,
    first: u64,
    last: u64,
}

impl<'a> PartName<'a> {
    fn parse(name: &'a str) -> Option<Self> {
        let range = name.rsplit_once("/part-")?.1.split('.').next()?;
        let (first, last) = range.split_once('-')?;
        Some(Self { name, first: first.parse().unwrap(), last: last.parse().unwrap() })
    }
}

impl Exported {
    /// Reads the objects below the prefix of a sink from the bucket.
    pub(crate) fn read(s3: &S3Server, prefix: &str) -> Self {
        let prefix = format!("{CONNECTION_PREFIX}/{prefix}/");
        let own =
            |(name, data): (String, Vec<u8>)| Some((name.strip_prefix(&prefix)?.to_owned(), data));
        Self { objects: s3.objects().into_iter().filter_map(own).collect() }
    }

    /// Writes the objects to files below a directory, as a download does.
    pub(crate) fn download_to(&self, directory: &Path) {
        for (name, data) in &self.objects {
            let path = directory.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, data).unwrap();
        }
    }

    /// Folders of the days, in order.
    pub(crate) fn days(&self) -> Vec<String> {
        let day = |name: &String| Some(name.strip_prefix("date=")?.split('/').next()?.to_owned());
        let mut days: Vec<String> = self.objects.keys().filter_map(day).collect();
        days.dedup();
        days
    }

    /// Parts of a format, by their first index. Each begins where the one before ends.
    fn parts(&self, extension: &str) -> Vec<PartName<'_>> {
        let names = self.objects.keys().filter(|it| it.ends_with(extension));
        let mut parts: Vec<_> = names.filter_map(|it| PartName::parse(it)).collect();
        parts.sort_by_key(|it| it.first);
        let mut next = 0;
        for part in &parts {
            assert_eq!(part.first, next, "{} does not follow the part before", part.name);
            next = part.last + 1;
        }
        parts
    }

    /// Lines of all parts in JSON Lines, in order. Entries are in the folder of their day.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let mut lines: Vec<Value> = vec![];
        for part in self.parts(".ndjson.gz") {
            let mut text = String::new();
            GzDecoder::new(&*self.objects[part.name]).read_to_string(&mut text).unwrap();
            let folder = part.name.split('/').next().unwrap();
            for line in text.lines() {
                let line: Value = serde_json::from_str(line).unwrap();
                assert_eq!(line["index"], lines.len(), "{}", part.name);
                if let Some(time) = line["entry"]["receiveTime"].as_str() {
                    assert_eq!(folder, format!("date={}", &time[..10]), "{line}");
                }
                lines.push(line);
            }
            assert_eq!(lines.len() as u64, part.last + 1, "{}", part.name);
        }
        lines
    }

    /// The checkpoint, whose signature is valid.
    pub(crate) fn checkpoint(&self, pins: &Pins) -> Checkpoint {
        let note = str::from_utf8(&self.objects["checkpoint"]).unwrap();
        note::open(note, pins).unwrap()
    }

    /// Checks that the lines are the whole log of the checkpoint: by the root of their leaf hashes, and by
    /// the verifier, which compares the leaves with them. Returns the lines.
    pub(crate) fn verify(&self, pins: &Pins) -> Vec<Value> {
        let lines = self.lines();
        let checkpoint = self.checkpoint(pins);
        assert_eq!(lines.len() as u64, checkpoint.size);
        let mut root = RootBuilder::default();
        for line in &lines {
            let hash = BASE64.decode(line["leaf_hash"].as_str().unwrap().as_bytes()).unwrap();
            root.push(hash.try_into().unwrap());
        }
        assert_eq!(root.root(), checkpoint.root);
        let note = str::from_utf8(&self.objects["checkpoint"]).unwrap();
        let header = json!({ "tenantry_audit_bundle": 1, "checkpoint": note, "whole": true });
        let end = json!({ "end": true, "count": lines.len() });
        let file = [&[header], &*lines, &[end]].concat();
        let file: String = file.iter().map(|it| format!("{it}\n")).collect();
        let report = bundle::verify(file.as_bytes(), pins, |_| None, |_| ()).unwrap();
        assert!(report.complete);
        lines
    }

    /// Checks that the parts in Parquet have the entries of these lines.
    pub(crate) fn verify_parquet(&self, lines: &[Value]) {
        let mut lines = lines.iter();
        for part in self.parts(".parquet") {
            let data = bytes::Bytes::from(self.objects[part.name].clone());
            let file = SerializedFileReader::new(data).unwrap();
            for row in file.get_row_iter(None).unwrap() {
                let row = row.unwrap();
                let line = lines.next().unwrap();
                assert_eq!(line["index"], row.get_long(0).unwrap());
                let hash = BASE64.encode(row.get_bytes(11).unwrap().data());
                assert_eq!(line["leaf_hash"], json!(hash));
                let fields: BTreeMap<_, _> =
                    row.get_column_iter().map(|(name, field)| (name.as_str(), field)).collect();
                let text = |name: &str| match fields[name] {
                    Field::Str(text) => json!(text),
                    Field::Null => Value::Null,
                    other => panic!("{name} is {other:?}"),
                };
                let entry = &line["entry"];
                assert_eq!(text("action"), entry["action"]);
                let data = text("data");
                let data = data.as_str().map(|it| serde_json::from_str::<Value>(it).unwrap());
                assert_eq!(data.unwrap_or_default(), *entry);
                if !entry.is_null() {
                    let actor = &entry["envelope"]["actor"]["id"];
                    assert_eq!(text("actor_id"), json!(actor.as_str().unwrap_or_default()));
                }
            }
        }
        assert!(lines.next().is_none(), "an entry is missing in Parquet");
    }
}
