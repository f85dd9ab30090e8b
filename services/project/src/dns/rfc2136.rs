//! Dynamic updates of a zone (RFC 2136) over TCP, signed with TSIG. Queries are signed, too, and go to the
//! same server, so that no cache and no secondary server is read.

use std::{net::SocketAddr, time::SystemTime};

use hickory_proto::{
    op::{Message, OpCode, Query, ResponseCode, UpdateMessage},
    rr::{
        DNSClass, Name, RData, Record as WireRecord, RecordType as WireType,
        rdata::{A, AAAA, CNAME, TXT},
    },
};
use project_rules::connection::dns::record::{
    Change, DnsFailure, Record, RecordType, Snapshot, mark_name,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    dns_client::failure,
    tsig::{TsigFailure, TsigKey},
};

/// A primary server of a zone.
pub(super) struct Rfc2136 {
    pub(super) address: SocketAddr,
    pub(super) zone: Name,
    pub(super) key: TsigKey,
}

/// Converts a name; it is absolute.
pub(super) fn wire_name(name: &str) -> Result<Name, DnsFailure> {
    let mut name = Name::from_ascii(name).map_err(failure)?;
    name.set_fqdn(true);
    Ok(name)
}

fn wire_type(it: RecordType) -> WireType {
    match it {
        RecordType::A => WireType::A,
        RecordType::Aaaa => WireType::AAAA,
        RecordType::Cname => WireType::CNAME,
        RecordType::Txt => WireType::TXT,
    }
}

fn wire_data(record_type: RecordType, value: &str) -> Result<RData, DnsFailure> {
    Ok(match record_type {
        RecordType::A => RData::A(A(value.parse().map_err(failure)?)),
        RecordType::Aaaa => RData::AAAA(AAAA(value.parse().map_err(failure)?)),
        RecordType::Cname => RData::CNAME(CNAME(wire_name(value)?)),
        RecordType::Txt => RData::TXT(TXT::new(vec![value.to_owned()])),
    })
}

/// Value of a record; `None` for another type.
fn value(record_type: RecordType, data: &RData) -> Option<String> {
    let value = match (record_type, data) {
        (RecordType::A, RData::A(it)) => it.0.to_string(),
        (RecordType::Aaaa, RData::AAAA(it)) => it.0.to_string(),
        (RecordType::Cname, RData::CNAME(it)) => it.0.to_ascii(),
        (RecordType::Txt, RData::TXT(it)) => {
            String::from_utf8_lossy(&it.txt_data.concat()).into_owned()
        }
        _ => return None,
    };
    Some(record_type.normalize(&value))
}

/// An RRset in a prerequisite or an update: with class ANY all of its records, with class NONE none.
fn rrset(name: &Name, record_type: WireType, class: DNSClass) -> WireRecord {
    let mut record = WireRecord::update0(name.clone(), 0, record_type);
    record.dns_class = class;
    record
}

impl Rfc2136 {
    /// Reads the records of a name.
    pub(super) async fn read(&self, name: &str) -> Result<Snapshot, DnsFailure> {
        let mut stream = self.connect().await?;
        let mut snapshot = Snapshot::default();
        for record_type in RecordType::ALL {
            let values = self.query(&mut stream, name, record_type).await?;
            if !values.is_empty() {
                snapshot.records.insert(record_type, values);
            }
        }
        snapshot.marks = self.query(&mut stream, &mark_name(name), RecordType::Txt).await?;
        Ok(snapshot)
    }

    /// Applies a change: one update message, whose prerequisites are the records from which it was derived.
    pub(super) async fn apply(&self, change: &Change) -> Result<(), DnsFailure> {
        let mut message = Message::query();
        message.metadata.op_code = OpCode::Update;
        message.metadata.recursion_desired = false;
        message.add_zone(Query::query(self.zone.clone(), WireType::SOA));
        let name = wire_name(&change.name)?;
        let mark = wire_name(&mark_name(&change.name))?;
        require_before(&mut message, change, &name, &mark)?;
        message.add_update(rrset(&name, wire_type(change.record_type), DNSClass::ANY));
        if let Some(Record { record_type, value, ttl, .. }) = &change.after {
            let data = wire_data(*record_type, value)?;
            message.add_update(WireRecord::from_rdata(name, *ttl, data));
        }
        let ttl = change.after.as_ref().map_or(0, |it| it.ttl);
        for text in change.before.marks.iter().filter(|it| !change.marks.contains(it)) {
            let data = wire_data(RecordType::Txt, text)?;
            let mut removed = WireRecord::from_rdata(mark.clone(), 0, data);
            removed.dns_class = DNSClass::NONE;
            message.add_update(removed);
        }
        for text in change.marks.iter().filter(|it| !change.before.marks.contains(it)) {
            let data = wire_data(RecordType::Txt, text)?;
            message.add_update(WireRecord::from_rdata(mark.clone(), ttl, data));
        }
        let response = self.exchange(&mut self.connect().await?, message).await?;
        match response.metadata.response_code {
            ResponseCode::NoError => Ok(()),
            ResponseCode::YXDomain => Err(DnsFailure::Server(format!(
                "{} has other records, which the suite did not make; remove them, or use another name",
                change.name
            ))),
            ResponseCode::YXRRSet | ResponseCode::NXRRSet => Err(DnsFailure::Server(format!(
                "the records of {} were changed at the same time",
                change.name
            ))),
            code => Err(self.refused(code)),
        }
    }

    async fn connect(&self) -> Result<TcpStream, DnsFailure> {
        TcpStream::connect(self.address)
            .await
            .map_err(|it| DnsFailure::Server(format!("no connection to {}: {it}", self.address)))
    }

    /// Returns the sorted values of the records with a name and a type.
    async fn query(
        &self,
        stream: &mut TcpStream,
        name: &str,
        record_type: RecordType,
    ) -> Result<Vec<String>, DnsFailure> {
        let name = wire_name(name)?;
        let mut message = Message::query();
        message.metadata.recursion_desired = false;
        message.add_query(Query::query(name.clone(), wire_type(record_type)));
        let response = self.exchange(stream, message).await?;
        match response.metadata.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => {}
            code => return Err(self.refused(code)),
        }
        if !response.metadata.authoritative {
            return Err(self.refused(ResponseCode::NotAuth));
        }
        let answers = response.answers.iter().filter(|it| it.name == name);
        let mut values: Vec<_> = answers.filter_map(|it| value(record_type, &it.data)).collect();
        values.sort();
        Ok(values)
    }

    /// Sends a signed request and returns the verified response.
    #[expect(
        clippy::disallowed_methods,
        reason = "the server compares the time with its own clock, which no test moves"
    )]
    async fn exchange(
        &self,
        stream: &mut TcpStream,
        mut request: Message,
    ) -> Result<Message, DnsFailure> {
        let now = || {
            let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            since_1970.map_or(0, |it| it.as_secs())
        };
        let id = request.metadata.id;
        let mac = self.key.sign(&mut request, now()).map_err(failure)?;
        let bytes = request.to_vec().map_err(failure)?;
        let mut framed = u16::try_from(bytes.len()).map_err(failure)?.to_be_bytes().to_vec();
        framed.extend(bytes);
        stream.write_all(&framed).await.map_err(failure)?;
        let length = stream.read_u16().await.map_err(failure)?;
        let mut response = vec![0; length.into()];
        stream.read_exact(&mut response).await.map_err(failure)?;
        let response = match self.key.verify(&response, &mac, now()) {
            Ok(response) => response,
            Err(TsigFailure::Unsigned(response))
                if response.metadata.response_code != ResponseCode::NoError =>
            {
                return Err(self.refused(response.metadata.response_code));
            }
            Err(other) => return Err(failure(other)),
        };
        if response.metadata.id != id {
            return Err(failure("the response is for another request"));
        }
        Ok(response)
    }

    fn refused(&self, code: ResponseCode) -> DnsFailure {
        let zone = self.zone.to_ascii();
        let zone = zone.trim_end_matches('.');
        DnsFailure::Server(match code {
            ResponseCode::Refused | ResponseCode::NotAuth => format!(
                "{code}; check that the server is the primary one of the zone {zone}, and that it allows the \
                 key to query the zone and to update its names"
            ),
            code => format!("the server answered {code}"),
        })
    }
}

/// Adds the prerequisites of a change (RFC 2136, section 2.4): the records are those of `change.before`. A
/// removal requires the mark only, because other records of the name stay.
fn require_before(
    message: &mut Message,
    change: &Change,
    name: &Name,
    mark: &Name,
) -> Result<(), DnsFailure> {
    let before = &change.before;
    let mut required = vec![(mark, RecordType::Txt, before.marks.as_slice())];
    if change.after.is_some() && !before.records.is_empty() {
        for record_type in RecordType::ALL {
            let values = before.records.get(&record_type).map(Vec::as_slice);
            required.push((name, record_type, values.unwrap_or_default()));
        }
    }
    if change.after.is_some() && before.records.is_empty() {
        // Refuses records of types that were not read, too: a CNAME beside them would be ignored.
        message.add_pre_requisite(rrset(name, WireType::ANY, DNSClass::NONE));
    }
    for (name, record_type, values) in required {
        if values.is_empty() {
            message.add_pre_requisite(rrset(name, wire_type(record_type), DNSClass::NONE));
        }
        for value in values {
            let data = wire_data(record_type, value)?;
            message.add_pre_requisite(WireRecord::from_rdata(name.clone(), 0, data));
        }
    }
    Ok(())
}
