//! Conversion between messages of the contract and DNS connections and records.

use api::{check::Violation, project as pb};
use chassis::{Error, Result, mask, timestamp};
use pb::{
    create_dns_connection_request::Server as DraftServer, dns_connection::Server as WireServer,
};
use url::{Host, Url};

use super::{
    DnsConnection, Draft, Patch, Server, TsigAlgorithm, name_violation,
    record::{DnsRecord, State},
};

impl From<TsigAlgorithm> for pb::TsigAlgorithm {
    fn from(it: TsigAlgorithm) -> Self {
        match it {
            TsigAlgorithm::HmacSha256 => Self::HmacSha256,
            TsigAlgorithm::HmacSha384 => Self::HmacSha384,
            TsigAlgorithm::HmacSha512 => Self::HmacSha512,
        }
    }
}

/// UNSPECIFIED means HMAC-SHA256.
impl From<pb::TsigAlgorithm> for TsigAlgorithm {
    fn from(it: pb::TsigAlgorithm) -> Self {
        match it {
            pb::TsigAlgorithm::Unspecified | pb::TsigAlgorithm::HmacSha256 => Self::HmacSha256,
            pb::TsigAlgorithm::HmacSha384 => Self::HmacSha384,
            pb::TsigAlgorithm::HmacSha512 => Self::HmacSha512,
        }
    }
}

impl From<Server> for WireServer {
    fn from(it: Server) -> Self {
        match it {
            Server::Rfc2136 { host, port, key_name, algorithm } => {
                let algorithm = pb::TsigAlgorithm::from(algorithm).into();
                let port = port.into();
                Self::Rfc2136(pb::Rfc2136Server { host, port, key_name, algorithm })
            }
            Server::PowerDns { api_url, server_id } => {
                Self::Powerdns(pb::PowerDnsServer { api_url, server_id })
            }
            Server::Cloudflare { zone_id } => Self::Cloudflare(pb::CloudflareZone { zone_id }),
        }
    }
}

impl From<&DnsConnection> for pb::DnsConnection {
    fn from(it: &DnsConnection) -> Self {
        Self {
            id: it.id.into(),
            org_id: it.org_id.into(),
            name: it.name.clone(),
            zone: it.zone.clone(),
            server: it.server().ok().map(Into::into),
            default: it.is_default,
            last_test_time: Some(timestamp(it.tested_at)),
            last_test_error: it.test_error.clone(),
            secret_update_time: Some(timestamp(it.secret_updated_at)),
            creator_id: it.creator_id.into(),
            create_time: Some(timestamp(it.created_at)),
            update_time: Some(timestamp(it.updated_at)),
            etag: it.etag(),
        }
    }
}

impl From<State> for pb::DnsRecordState {
    fn from(it: State) -> Self {
        match it {
            State::Pending => Self::Pending,
            State::Published => Self::Published,
            State::Removing => Self::Removing,
        }
    }
}

impl From<&DnsRecord> for pb::DnsRecord {
    fn from(it: &DnsRecord) -> Self {
        Self {
            id: it.id.into(),
            environment_id: it.environment_id.into(),
            name: it.name.clone(),
            record_type: it.record_type.column_text().to_owned(),
            value: it.value.clone(),
            ttl: it.ttl,
            state: pb::DnsRecordState::from(it.state).into(),
            attempt_count: it.attempts,
            last_error: it.last_error.clone(),
            create_time: Some(timestamp(it.created_at)),
            update_time: Some(timestamp(it.updated_at)),
        }
    }
}

/// Text of a host name or address as all programs read it; `None` for other texts, for example `0x7f.1`.
fn canonical_host(host: &str) -> Option<String> {
    let host = host.to_ascii_lowercase();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = address.parse::<std::net::Ipv6Addr>() {
        return Some(format!("[{ip}]"));
    }
    let parsed = Host::parse(&host).ok()?;
    (parsed.to_string() == host && !host.ends_with('.')).then_some(host)
}

/// URL of an API as scheme, host and port; `None` for a URL with a path, a query or a credential.
fn canonical_api_url(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    let is_plain = matches!(url.scheme(), "https" | "http") && url.path() == "/";
    let has_more = url.query().is_some() || url.fragment().is_some() || !url.username().is_empty();
    let host = url.host_str()?;
    let is_host =
        canonical_host(host).as_deref() == Some(host) && text.to_ascii_lowercase().contains(host);
    let is_valid = is_plain && !has_more && url.password().is_none() && is_host;
    is_valid.then(|| url.as_str().trim_end_matches('/').to_owned())
}

fn violation(field: &str, description: &str) -> Violation {
    Violation { field: field.to_owned(), description: description.to_owned() }
}

impl Draft {
    /// Converts a request.
    pub fn from_request(it: &pb::CreateDnsConnectionRequest) -> Result<Self> {
        let mut violations = vec![];
        let zone = it.zone.trim_end_matches('.').to_ascii_lowercase();
        if let Some(description) = name_violation(&zone) {
            violations.push(violation("zone", description));
        }
        let host_description =
            "must be a host name without a dot at its end, or an IP address in its usual form";
        let server = match &it.server {
            None => {
                violations.push(violation("server", "must be rfc2136, powerdns or cloudflare"));
                None
            }
            Some(DraftServer::Rfc2136(it)) => {
                let host = canonical_host(&it.host);
                if host.is_none() {
                    violations.push(violation("rfc2136.host", host_description));
                }
                let key_name = it.key_name.trim_end_matches('.').to_ascii_lowercase();
                if let Some(description) = name_violation(&key_name) {
                    violations.push(violation("rfc2136.key_name", description));
                }
                let port = u16::try_from(it.port).ok().filter(|it| *it > 0).unwrap_or(53);
                let algorithm = it.algorithm().into();
                host.map(|host| Server::Rfc2136 { host, port, key_name, algorithm })
            }
            Some(DraftServer::Powerdns(it)) => {
                let api_url = canonical_api_url(&it.api_url);
                if api_url.is_none() {
                    let description =
                        "must be scheme, host and port, for example https://dns.example.com:8081";
                    violations.push(violation("powerdns.api_url", description));
                }
                let server_id = it.server_id.as_str();
                let server_id = if server_id.is_empty() { "localhost" } else { server_id };
                api_url.map(|api_url| Server::PowerDns { api_url, server_id: server_id.to_owned() })
            }
            Some(DraftServer::Cloudflare(it)) => {
                Some(Server::Cloudflare { zone_id: it.zone_id.clone() })
            }
        };
        let Some(server) = server.filter(|_| violations.is_empty()) else {
            return Err(Error::Invalid(violations));
        };
        let draft =
            Self { name: it.name.trim().to_owned(), zone, server, secret: it.secret.clone() };
        draft.require_secret()?;
        Ok(draft)
    }
}

/// Fields that an update mask may name.
const UPDATABLE_FIELDS: [&str; 4] = ["name", "key_name", "algorithm", "secret"];

impl Patch {
    /// Converts a request.
    pub fn from_request(it: &pb::UpdateDnsConnectionRequest) -> Result<Self> {
        let paths = mask::paths(it.update_mask.as_ref(), &UPDATABLE_FIELDS)?;
        let is_named = |path: &str| paths.contains(&path);
        if is_named("name") && it.name.trim().is_empty() {
            return Err(Error::invalid("name", "must not be empty"));
        }
        let key_name = it.key_name.trim_end_matches('.').to_ascii_lowercase();
        if let Some(description) = name_violation(&key_name).filter(|_| is_named("key_name")) {
            return Err(Error::invalid("key_name", description));
        }
        Ok(Self {
            name: is_named("name").then(|| it.name.trim().to_owned()),
            key_name: is_named("key_name").then_some(key_name),
            algorithm: is_named("algorithm").then(|| it.algorithm().into()),
            secret: (is_named("secret") && !it.secret.is_empty()).then(|| it.secret.clone()),
        })
    }
}
