//! API of Cloudflare, version 4.

use project_rules::connection::dns::record::{Change, DnsFailure, RecordType, Snapshot, mark_name};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{dns_client::failure, http::Api, powerdns::value};

/// Number of records of one name that are read; more are refused.
const RECORDS_MAX: usize = 100;

/// A zone of an account.
pub(super) struct Cloudflare {
    pub(super) api: Api,
    pub(super) zone: String,
    /// Empty: the id that the API returns for the zone.
    pub(super) zone_id: String,
}

/// A record of a response.
#[derive(Deserialize)]
struct Entry {
    id: String,
    name: String,
    #[serde(rename = "type")]
    record_type: String,
    content: String,
}

/// A record of a request. `proxied` is false: clients reach the address of the record itself.
fn post(name: &str, record_type: RecordType, value: &str, ttl: u32) -> Value {
    let content = match record_type {
        RecordType::Txt => format!("\"{value}\""),
        _ => value.to_owned(),
    };
    // Cloudflare accepts 60 seconds and more.
    json!({
        "name": name, "type": record_type.column_text(), "content": content, "ttl": ttl.max(60),
        "proxied": false,
    })
}

impl Cloudflare {
    /// Reads the records of a name.
    pub(super) async fn read(&self, name: &str) -> Result<Snapshot, DnsFailure> {
        let zone = self.zone_id().await?;
        let mut snapshot = Snapshot::default();
        for entry in self.entries(&zone, name).await? {
            if let Some(record_type) = RecordType::parse(&entry.record_type) {
                let values = snapshot.records.entry(record_type).or_default();
                values.push(value(record_type, &entry.content));
                values.sort();
            }
        }
        let marks = self.entries(&zone, &mark_name(name)).await?.into_iter();
        let texts = marks.filter(|it| it.record_type == "TXT");
        snapshot.marks = texts.map(|it| value(RecordType::Txt, &it.content)).collect();
        snapshot.marks.sort();
        Ok(snapshot)
    }

    /// Applies a change: one batch, which Cloudflare executes as one transaction.
    pub(super) async fn apply(&self, change: &Change) -> Result<(), DnsFailure> {
        let zone = self.zone_id().await?;
        let record_type = change.record_type.column_text();
        let mark = mark_name(&change.name);
        let mut deletes = vec![];
        for entry in self.entries(&zone, &change.name).await? {
            if entry.record_type == record_type {
                deletes.push(json!({ "id": entry.id }));
            }
        }
        for entry in self.entries(&zone, &mark).await? {
            let text = value(RecordType::Txt, &entry.content);
            let is_mark = change.before.marks.contains(&text) && !change.marks.contains(&text);
            if entry.record_type == "TXT" && is_mark {
                deletes.push(json!({ "id": entry.id }));
            }
        }
        let record = change.after.as_ref();
        let ttl = record.map_or(60, |it| it.ttl);
        let mut posts: Vec<_> =
            record.iter().map(|it| post(&it.name, it.record_type, &it.value, ttl)).collect();
        let new_marks = change.marks.iter().filter(|it| !change.before.marks.contains(it));
        posts.extend(new_marks.map(|it| post(&mark, RecordType::Txt, it, ttl)));
        let body = json!({ "deletes": deletes, "posts": posts });
        self.call(Method::POST, &format!("/zones/{zone}/dns_records/batch"), &[], Some(&body))
            .await?;
        Ok(())
    }

    async fn zone_id(&self) -> Result<String, DnsFailure> {
        if !self.zone_id.is_empty() {
            return Ok(self.zone_id.clone());
        }
        let zones = self.call(Method::GET, "/zones", &[("name", &self.zone)], None).await?;
        let id = zones[0]["id"].as_str().filter(|it| is_id(it));
        let unknown =
            || failure("the account has no such zone, or the token has no right to read it");
        id.map(str::to_owned).ok_or_else(unknown)
    }

    async fn entries(&self, zone: &str, name: &str) -> Result<Vec<Entry>, DnsFailure> {
        let per_page = RECORDS_MAX.to_string();
        let query = [("name.exact", name), ("per_page", per_page.as_str())];
        let path = format!("/zones/{zone}/dns_records");
        let records = self.call(Method::GET, &path, &query, None).await?;
        let records = Vec::<Entry>::deserialize(records).map_err(failure)?;
        if records.len() >= RECORDS_MAX {
            return Err(failure(format!(
                "{name} has {RECORDS_MAX} records or more; use another name"
            )));
        }
        Ok(records.into_iter().filter(|it| it.name.eq_ignore_ascii_case(name)).collect())
    }

    /// Returns `result` of a response.
    async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Value, DnsFailure> {
        let mut answer = self.api.send(method, path, query, body).await?;
        if answer.status.is_success() && answer.body["success"] == true {
            return Ok(answer.body["result"].take());
        }
        Err(answer.refusal(answer.body["errors"][0]["message"].as_str()))
    }
}

/// True for an id of the API, which becomes part of a path.
fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|it| it.is_ascii_hexdigit())
}
