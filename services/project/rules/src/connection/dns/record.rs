//! Records that the suite publishes, and the marks by which it finds them again: a TXT record at
//! `_tenantry.<name>` for each type of record at `<name>`, as external-dns does. Records without the mark are
//! never changed or removed.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use api::error::Reason;
use chassis::{Code, OrgId, Refusal, clock::Duration};
use time::OffsetDateTime;

use super::name_violation;
use crate::{
    connection::TestFailure,
    types::{DnsConnectionId, DnsRecordId, EnvironmentId},
};

/// Label under which a mark is stored.
const MARK_LABEL: &str = "_tenantry";

/// Beginning of every mark of the suite.
const MARK_HERITAGE: &str = "heritage=tenantry,";

/// Maximum length of the name of a record, in bytes: the name of its mark is longer.
const NAME_BYTES_MAX: usize = 253 - MARK_LABEL.len() - 1;

/// Maximum length of the text of a TXT record, in bytes.
const TEXT_BYTES_MAX: usize = 255;

/// Type of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordType {
    A,
    Aaaa,
    Cname,
    Txt,
}

chassis::text_column!(RecordType { A = "A", Aaaa = "AAAA", Cname = "CNAME", Txt = "TXT" });

impl RecordType {
    pub const ALL: [Self; 4] = [Self::A, Self::Aaaa, Self::Cname, Self::Txt];

    /// The type with this name, as DNS servers write it.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.column_text() == text)
    }

    /// Value in the form in which values are compared: names in lower case and without a dot at their end.
    pub fn normalize(self, value: &str) -> String {
        match self {
            Self::A | Self::Txt => value.to_owned(),
            Self::Aaaa => {
                let address = value.parse::<Ipv6Addr>();
                address.map_or_else(|_| value.to_owned(), |it| it.to_string())
            }
            Self::Cname => value.trim_end_matches('.').to_ascii_lowercase(),
        }
    }
}

/// A record: the only one with its name and type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Name in lower case, without a dot at its end.
    pub name: String,
    pub record_type: RecordType,
    /// IP address, host name without a dot at its end, or text.
    pub value: String,
    /// Time to live in seconds.
    pub ttl: u32,
}

/// Time to live of the records of host names, in seconds.
const HOSTNAME_TTL_S: u32 = 300;

impl Record {
    /// Returns the record of a host name on a server: A or AAAA for an IP address, else CNAME.
    pub fn of_host(name: &str, server: &str) -> Self {
        let record_type = match server.parse() {
            Ok(IpAddr::V4(_)) => RecordType::A,
            Ok(IpAddr::V6(_)) => RecordType::Aaaa,
            Err(_) => RecordType::Cname,
        };
        let value = server.trim_end_matches('.').to_ascii_lowercase();
        Self { name: name.to_owned(), record_type, value, ttl: HOSTNAME_TTL_S }
    }

    /// Refuses a record outside of the zone, and an invalid name or value.
    pub fn require_valid(&self, zone: &str) -> Result<(), DnsFailure> {
        let is_below = self.name.strip_suffix(zone).is_some_and(|it| it.ends_with('.'));
        let invalid = |text: String| Err(DnsFailure::Server(text));
        if !is_below {
            return invalid(format!("{} is not below the zone {zone}", self.name));
        }
        if name_violation(&self.name).is_some() || self.name.len() > NAME_BYTES_MAX {
            return invalid(format!(
                "{} is not a DNS name of at most {NAME_BYTES_MAX} characters",
                self.name
            ));
        }
        let value = self.value.as_str();
        let is_valid = match self.record_type {
            RecordType::A => value.parse::<Ipv4Addr>().is_ok(),
            RecordType::Aaaa => value.parse::<Ipv6Addr>().is_ok(),
            RecordType::Cname => name_violation(value).is_none(),
            RecordType::Txt => {
                let is_plain = |it: u8| matches!(it, b' '..=b'~') && !matches!(it, b'"' | b'\\');
                value.len() <= TEXT_BYTES_MAX && value.bytes().all(is_plain)
            }
        };
        if is_valid {
            Ok(())
        } else {
            let record_type = self.record_type.column_text();
            invalid(format!("{value:?} is not the value of an {record_type} record"))
        }
    }
}

/// Owner of records: an environment of an organization in an installation of the suite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Id of the installation, the same for all of its processes.
    pub installation: String,
    pub org_id: OrgId,
    /// Id of the environment, or `test`.
    pub environment: String,
}

impl Owner {
    /// Mark of a record.
    fn mark(&self, record_type: RecordType) -> String {
        format!(
            "{MARK_HERITAGE}owner={},org={},environment={},type={}",
            self.installation,
            self.org_id,
            self.environment,
            record_type.column_text()
        )
    }
}

/// Records that a DNS server has at a name, and their marks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Sorted values by type; types without records are missing.
    pub records: BTreeMap<RecordType, Vec<String>>,
    /// Sorted TXT records at the name of the marks, also those that are no marks.
    pub marks: Vec<String>,
}

/// Change of the records of one name and type, and of the marks of the name. A DNS server applies it
/// completely or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub name: String,
    pub record_type: RecordType,
    /// Records from which the change was derived.
    pub before: Snapshot,
    /// The record after the change; `None`: there is none.
    pub after: Option<Record>,
    /// Sorted TXT records at the name of the marks after the change.
    pub marks: Vec<String>,
}

/// Name of the marks of a name.
pub fn mark_name(name: &str) -> String {
    format!("{MARK_LABEL}.{name}")
}

impl Snapshot {
    /// Returns the change that publishes a record. `None`: it is published already.
    pub fn publication(self, record: &Record, owner: &Owner) -> Result<Option<Change>, DnsFailure> {
        let foreign = |record_type: RecordType| DnsFailure::Foreign {
            name: record.name.clone(),
            record_type: record_type.column_text(),
        };
        for record_type in self.records.keys() {
            if !self.marks.contains(&owner.mark(*record_type)) {
                return Err(foreign(*record_type));
            }
        }
        let mark = owner.mark(record.record_type);
        // A mark of another environment: the removal of its record would remove this one.
        let suffix = format!(",type={}", record.record_type.column_text());
        let is_of_other = |it: &&String| {
            **it != mark && it.starts_with(MARK_HERITAGE) && it.ends_with(suffix.as_str())
        };
        if self.marks.iter().any(|it| is_of_other(&it)) {
            return Err(foreign(record.record_type));
        }
        let value = record.record_type.normalize(&record.value);
        let current = self.records.get(&record.record_type);
        let is_published = current.is_some_and(|it| *it == [value]);
        if is_published && self.marks.contains(&mark) {
            return Ok(None);
        }
        let mut marks = self.marks.clone();
        if !marks.contains(&mark) {
            marks.push(mark);
            marks.sort();
        }
        Ok(Some(Change {
            name: record.name.clone(),
            record_type: record.record_type,
            before: self,
            after: Some(record.clone()),
            marks,
        }))
    }

    /// Returns the change that removes the record of a type. `None`: the owner has none.
    pub fn removal(self, name: &str, record_type: RecordType, owner: &Owner) -> Option<Change> {
        let mark = owner.mark(record_type);
        if !self.marks.contains(&mark) {
            return None;
        }
        let marks = self.marks.iter().filter(|it| **it != mark).cloned().collect();
        Some(Change { name: name.to_owned(), record_type, before: self, after: None, marks })
    }
}

impl Change {
    /// True if the DNS server has the records after the change.
    pub fn is_applied(&self, snapshot: &Snapshot) -> bool {
        let value = self.after.as_ref().map(|it| it.record_type.normalize(&it.value));
        let expected: Option<Vec<_>> = value.map(|it| vec![it]);
        snapshot.records.get(&self.record_type) == expected.as_ref() && snapshot.marks == self.marks
    }
}

/// Failure of a change of records, or of a test.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsFailure {
    #[error(transparent)]
    Target(TestFailure),
    #[error(
        "{name} has a record of type {record_type} that was not made for this environment; remove the record \
         from the DNS server, or use another name"
    )]
    Foreign { name: String, record_type: &'static str },
    /// Text of the server, cleaned and without secrets.
    #[error("the DNS server did not make the change: {0}")]
    Server(String),
}

impl DnsFailure {
    /// Converts the failure of a test.
    pub fn into_test_failure(self) -> TestFailure {
        match self {
            Self::Target(failure) => failure,
            Self::Server(text) => TestFailure::Server(text),
            foreign @ Self::Foreign { .. } => TestFailure::Server(foreign.to_string()),
        }
    }
}

impl Refusal for DnsFailure {
    fn code(&self) -> Code {
        match self {
            Self::Target(failure) => failure.code(),
            Self::Foreign { .. } => Code::FailedPrecondition,
            Self::Server(_) => Code::Unavailable,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::Target(failure) => failure.reason(),
            Self::Foreign { .. } => Reason::DnsRecordForeign,
            Self::Server(_) => Reason::DnsUpdateFailed,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Target(failure) => failure.metadata(),
            Self::Foreign { name, record_type } => {
                vec![("name", name.clone()), ("type", (*record_type).to_owned())]
            }
            Self::Server(_) => vec![],
        }
    }
}

/// State of a stored record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// To be published.
    Pending,
    Published,
    /// To be removed; then its row is deleted.
    Removing,
}

chassis::text_column!(State {
    Pending = "pending",
    Published = "published",
    Removing = "removing",
});

/// A stored record.
#[derive(Clone, Debug)]
pub struct DnsRecord {
    pub id: DnsRecordId,
    pub org_id: OrgId,
    pub environment_id: EnvironmentId,
    pub dns_connection_id: DnsConnectionId,
    pub name: String,
    pub record_type: RecordType,
    pub value: String,
    pub ttl: i32,
    pub state: State,
    /// Number of attempts since the last change of the desired record.
    pub attempts: i32,
    /// Error of the last attempt; empty if it succeeded.
    pub last_error: String,
    /// Number of changes of the desired record: the result of an attempt counts for the one it read only.
    pub generation: i64,
    /// Time at which the record is removed; `None`: it stays.
    pub expires_at: Option<OffsetDateTime>,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

impl DnsRecord {
    /// The record as it is published.
    pub fn record(&self) -> Record {
        Record {
            name: self.name.clone(),
            record_type: self.record_type,
            value: self.value.clone(),
            ttl: self.ttl.unsigned_abs(),
        }
    }

    /// Pause until the next attempt after a failed one: 5 s, doubled with each, up to an hour.
    pub fn retry_delay(&self) -> Duration {
        let exponent = self.attempts.clamp(0, 10).unsigned_abs();
        Duration::seconds((5_i64 << exponent).min(3_600))
    }
}

#[cfg(test)]
mod tests;
