//! HTTP API of the PowerDNS Authoritative Server, version 1 (PowerDNS 4.3 or newer).

use project_rules::connection::dns::record::{Change, DnsFailure, RecordType, Snapshot, mark_name};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{dns_client::failure, http::Api};

/// A zone of a server.
pub(super) struct PowerDns {
    pub(super) api: Api,
    pub(super) server_id: String,
    pub(super) zone: String,
}

/// An RRset of a response.
#[derive(Deserialize)]
struct RrSet {
    name: String,
    #[serde(rename = "type")]
    record_type: String,
    records: Vec<Entry>,
}

/// A record of an RRset.
#[derive(Deserialize)]
struct Entry {
    content: String,
    #[serde(default)]
    disabled: bool,
}

/// Value of a record in the form of zone files.
fn content(record_type: RecordType, value: &str) -> String {
    match record_type {
        RecordType::A | RecordType::Aaaa => value.to_owned(),
        RecordType::Cname => format!("{value}."),
        RecordType::Txt => format!("\"{value}\""),
    }
}

/// Value of a record from the form of zone files. The strings of a TXT record are joined.
pub(super) fn value(record_type: RecordType, content: &str) -> String {
    if record_type != RecordType::Txt {
        return record_type.normalize(content);
    }
    match content.strip_prefix('"').and_then(|it| it.strip_suffix('"')) {
        Some(text) => text.replace("\" \"", ""),
        None => content.to_owned(),
    }
}

/// An RRset of a request, which replaces the one with its name and type.
fn replacement(name: &str, record_type: RecordType, values: &[&str], ttl: u32) -> Value {
    let records =
        values.iter().map(|it| json!({ "content": content(record_type, it), "disabled": false }));
    let records: Vec<_> = records.collect();
    json!({
        "name": format!("{name}."),
        "type": record_type.column_text(),
        "ttl": ttl,
        "changetype": if records.is_empty() { "DELETE" } else { "REPLACE" },
        "records": records,
    })
}

impl PowerDns {
    fn path(&self) -> String {
        format!("/api/v1/servers/{}/zones/{}.", self.server_id, self.zone)
    }

    /// Reads the records of a name.
    pub(super) async fn read(&self, name: &str) -> Result<Snapshot, DnsFailure> {
        let mut snapshot = Snapshot::default();
        for (record_type, values) in self.rrsets(name).await? {
            snapshot.records.insert(record_type, values);
        }
        let marks = self.rrsets(&mark_name(name)).await?.into_iter();
        let texts = marks.filter(|it| it.0 == RecordType::Txt).flat_map(|it| it.1);
        snapshot.marks = texts.collect();
        Ok(snapshot)
    }

    /// Applies a change: one request, which the server executes completely or not at all.
    pub(super) async fn apply(&self, change: &Change) -> Result<(), DnsFailure> {
        let ttl = change.after.as_ref().map_or(60, |it| it.ttl);
        let after: Vec<_> = change.after.iter().map(|it| it.value.as_str()).collect();
        let marks: Vec<_> = change.marks.iter().map(String::as_str).collect();
        let body = json!({ "rrsets": [
            replacement(&change.name, change.record_type, &after, ttl),
            replacement(&mark_name(&change.name), RecordType::Txt, &marks, ttl),
        ] });
        let answer = self.api.send(Method::PATCH, &self.path(), &[], Some(&body)).await?;
        if answer.status.is_success() {
            return Ok(());
        }
        Err(answer.refusal(answer.body["error"].as_str()))
    }

    /// Returns the RRsets of a name with the types of the suite, their values sorted.
    async fn rrsets(&self, name: &str) -> Result<Vec<(RecordType, Vec<String>)>, DnsFailure> {
        let absolute = format!("{name}.");
        // Servers before 4.6 ignore the filter and return the whole zone.
        let query = [("rrset_name", absolute.as_str())];
        let answer = self.api.send(Method::GET, &self.path(), &query, None).await?;
        if !answer.status.is_success() {
            return Err(answer.refusal(answer.body["error"].as_str()));
        }
        let rrsets = Vec::<RrSet>::deserialize(&answer.body["rrsets"]).map_err(failure)?;
        let rrsets = rrsets.into_iter().filter(|it| it.name.eq_ignore_ascii_case(&absolute));
        let rrsets = rrsets.filter_map(|it| {
            let record_type = RecordType::parse(&it.record_type)?;
            let enabled = it.records.iter().filter(|it| !it.disabled);
            let mut values: Vec<_> = enabled.map(|it| value(record_type, &it.content)).collect();
            values.sort();
            (!values.is_empty()).then_some((record_type, values))
        });
        Ok(rrsets.collect())
    }
}
