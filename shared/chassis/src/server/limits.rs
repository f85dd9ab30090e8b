//! Limits of what callers hold of the server at once.
//!
//! | held | from | until | limits |
//! |---|---|---|---|
//! | a connection | accepted | closed | in all, by address |
//! | an arriving body | head of the request | body complete | in all, by address; its bytes, too |
//! | a permit | body complete | answered | in all (`in_flight_max`) |
//! | an open call (stream, long poll) | admitted | ended | in all, by address, account, organization |
//!
//! Addresses are counted as [`place`]s. A trusted proxy carries the connections of many, and the loopback
//! interface those of local programs and proxies: they have larger shares.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use api::error::Reason;
use tokio::sync::Semaphore;
use tonic::{Code, Status};

use crate::{
    Config, Error, OrgId, Result, UserId,
    budget::{Budget, Exhausted, Share},
    error::overloaded,
    key::Secret,
    throttle::place,
};

/// Bodies that are arriving, of all addresses.
const ARRIVING_MAX: usize = 16_384;
/// Bodies that are arriving from one address.
const ARRIVING_PER_ADDRESS_MAX: usize = 512;
/// Bytes of bodies that are arriving or being worked on.
const BYTES_MAX: usize = 256 << 20;
/// The same of one address.
const BYTES_PER_ADDRESS_MAX: usize = 32 << 20;
/// Long polls of one credential that belongs to no account: a server's agent token.
const OPEN_CALLS_PER_CREDENTIAL_MAX: usize = 8;
/// Open calls to health and reflection, which have no account.
const OPERATOR_CALLS_MAX: usize = 1_024;
/// The same of one address.
const OPERATOR_CALLS_PER_ADDRESS_MAX: usize = 64;

/// A holder of open calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    Account(UserId),
    Credential(Secret),
    Organization(OrgId),
    Address(String),
}

/// The limits of a process.
pub(crate) struct Limits {
    /// Calls that are being worked on.
    pub(crate) permits: Arc<Semaphore>,
    connections: Arc<Budget<String>>,
    arriving: Arc<Budget<String>>,
    bytes: Arc<Budget<String>>,
    operator_calls: Arc<Budget<String>>,
    open_calls: Arc<Semaphore>,
    holders: Arc<Budget<Holder>>,
    proxies: Vec<IpAddr>,
    connections_max: usize,
    connections_per_address_max: usize,
    open_calls_max: usize,
    open_calls_per_address_max: usize,
    open_calls_per_account_max: usize,
    open_calls_per_org_max: usize,
}

/// A body that is arriving.
pub(crate) struct Arriving {
    _call: Share<String>,
    bytes: Share<String>,
    bytes_max: usize,
}

/// A stream or a long poll that is open.
pub(crate) struct OpenCall {
    holders: Arc<Budget<Holder>>,
    per_org_max: usize,
    held: Mutex<Vec<(Holder, Share<Holder>)>>,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl Limits {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(config.in_flight_max)),
            connections: Budget::new(config.connections_max),
            arriving: Budget::new(ARRIVING_MAX),
            bytes: Budget::new(BYTES_MAX),
            operator_calls: Budget::new(OPERATOR_CALLS_MAX),
            open_calls: Arc::new(Semaphore::new(config.open_calls_max)),
            holders: Budget::new(usize::MAX),
            proxies: config.trusted_proxies.clone(),
            connections_max: config.connections_max,
            connections_per_address_max: config.connections_per_address_max,
            open_calls_max: config.open_calls_max,
            open_calls_per_address_max: config.open_calls_per_address_max,
            open_calls_per_account_max: config.open_calls_per_account_max,
            open_calls_per_org_max: config.open_calls_per_org_max,
        }
    }

    /// Addresses of trusted proxies (`x-forwarded-for`).
    pub(crate) fn proxies(&self) -> &[IpAddr] {
        &self.proxies
    }

    /// The share of `total` that an address may hold.
    fn share(&self, total: usize, per_address: usize, address: &str) -> usize {
        match address.parse::<IpAddr>().map(|it| it.to_canonical()) {
            Ok(it) if self.proxies.contains(&it) => total,
            Ok(it) if it.is_loopback() => (total / 2).max(1),
            // A service of this process that calls for itself.
            Err(_) if address.is_empty() => total,
            _ => per_address,
        }
    }

    /// Counts a connection.
    pub(crate) fn connect(&self, address: IpAddr) -> Result<Share<String>, Exhausted> {
        let address = address.to_canonical().to_string();
        let max = self.share(self.connections_max, self.connections_per_address_max, &address);
        self.connections.take(place(&address), 1, max)
    }

    /// Counts a request whose body is arriving.
    pub(super) fn arrive(&self, address: &str) -> Result<Arriving, Exhausted> {
        let max = self.share(ARRIVING_MAX, ARRIVING_PER_ADDRESS_MAX, address);
        let bytes_max = self.share(BYTES_MAX, BYTES_PER_ADDRESS_MAX, address);
        let holder = place(address);
        let call = self.arriving.take(holder.clone(), 1, max)?;
        Ok(Arriving { _call: call, bytes: self.bytes.take(holder, 0, bytes_max)?, bytes_max })
    }

    /// Counts an open call to health or reflection.
    pub(crate) fn open_operator_call(&self, address: &str) -> Result<Share<String>, Status> {
        let max = self.share(OPERATOR_CALLS_MAX, OPERATOR_CALLS_PER_ADDRESS_MAX, address);
        self.operator_calls.take(place(address), 1, max).map_err(|it| refusal(it, "address"))
    }

    /// Counts a stream or a long poll of an account or, without one, of a credential; and of its address,
    /// unless a service of the suite calls for itself.
    pub(super) fn open(&self, of: Option<Holder>, address: Option<&str>) -> Result<OpenCall> {
        let Ok(permit) = self.open_calls.clone().try_acquire_owned() else {
            return Err(Error::Remote(Box::new(overloaded())));
        };
        let call = OpenCall {
            holders: self.holders.clone(),
            per_org_max: self.open_calls_per_org_max,
            held: Mutex::default(),
            _permit: permit,
        };
        if let Some(address) = address {
            let per_address = self.open_calls_per_address_max;
            let max = self.share(self.open_calls_max, per_address, address);
            call.hold(Holder::Address(place(address)), max)?;
        }
        if let Some(of) = of {
            let max = match of {
                Holder::Account(_) => self.open_calls_per_account_max,
                _ => OPEN_CALLS_PER_CREDENTIAL_MAX,
            };
            call.hold(of, max)?;
        }
        Ok(call)
    }
}

impl Arriving {
    /// Counts more bytes of the body.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Exhausted> {
        self.bytes.grow(bytes, self.bytes_max)
    }

    /// The body has arrived; its bytes stay counted.
    pub(super) fn complete(self) -> Share<String> {
        self.bytes
    }
}

impl OpenCall {
    /// Counts the call in its organization, once.
    pub(crate) fn count_in(&self, org_id: OrgId) -> Result<()> {
        self.hold(Holder::Organization(org_id), self.per_org_max)
    }

    fn hold(&self, holder: Holder, max: usize) -> Result<()> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.iter().any(|it| it.0 == holder) {
            return Ok(());
        }
        match self.holders.take(holder.clone(), 1, max) {
            Ok(share) => held.push((holder, share)),
            Err(_) => return Err(holder.refusal(max)),
        }
        Ok(())
    }
}

impl std::fmt::Debug for OpenCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpenCall(…)")
    }
}

impl Holder {
    fn noun(&self) -> &'static str {
        match self {
            Self::Account(_) => "account",
            Self::Credential(_) => "credential",
            Self::Organization(_) => "organization",
            Self::Address(_) => "address",
        }
    }

    fn refusal(&self, max: usize) -> Error {
        let noun = self.noun();
        Error::Refused {
            code: Code::ResourceExhausted,
            reason: Reason::OpenCallLimit,
            message: format!(
                "this {noun} has {max} streams or waiting calls open, which is the limit; close some, then \
                 retry"
            ),
            metadata: vec![("holder", noun.to_owned()), ("limit", max.to_string())],
        }
    }
}

/// The answer to a request for which there is no room.
pub(crate) fn refusal(exhausted: Exhausted, noun: &'static str) -> Status {
    match exhausted {
        Exhausted::Total => overloaded(),
        Exhausted::Holder => Error::Refused {
            code: Code::ResourceExhausted,
            reason: Reason::OpenCallLimit,
            message: format!(
                "this {noun} has too many unfinished requests; finish some, then retry"
            ),
            metadata: vec![("holder", noun.to_owned())],
        }
        .into(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        config: Config,
    }

    fn limits() -> Limits {
        let arguments = ["test", "--connections-max=100", "--connections-per-address-max=3"];
        let more = ["--trusted-proxies=10.0.0.1", "--open-calls-per-account-max=2"];
        Limits::new(&Arguments::parse_from(arguments.into_iter().chain(more)).config)
    }

    #[test]
    fn a_proxy_carries_many_and_a_stranger_few() {
        let limits = limits();
        let connect = |from: &str| {
            let mut open = vec![];
            while let Ok(share) = limits.connect(from.parse().unwrap()) {
                open.push(share);
            }
            open.len()
        };
        assert_eq!(connect("192.0.2.7"), 3);
        assert_eq!(connect("2001:db8::1"), 3);
        assert_eq!(connect("127.0.0.1"), 50);
        assert_eq!(connect("::1"), 50);
        assert_eq!(connect("::ffff:10.0.0.1"), 100);
    }

    #[test]
    fn one_network_of_many_addresses_is_one_holder() {
        let limits = limits();
        let open: Vec<_> =
            (0..3).map(|it| limits.connect(format!("2001:db8::{it}").parse().unwrap())).collect();
        assert!(open.iter().all(Result::is_ok));
        let more = limits.connect("2001:db8::ffff".parse().unwrap());
        assert_eq!(more.err(), Some(Exhausted::Holder));
    }

    #[test]
    fn an_open_call_that_is_refused_leaves_nothing_behind() {
        let limits = limits();
        let account = || Some(Holder::Account(UserId(uuid::Uuid::from_u128(1))));
        let open = |of| limits.open(of, Some("192.0.2.7"));
        let (one, two) = (open(account()).unwrap(), open(account()).unwrap());
        assert_eq!(open(account()).unwrap_err().reason(), Reason::OpenCallLimit);
        drop(one);
        drop(open(account()).unwrap());
        drop(two);
        assert_eq!(limits.open_calls.available_permits(), limits.open_calls_max);
        let org_id = OrgId(uuid::Uuid::from_u128(2));
        let call = open(None).unwrap();
        call.count_in(org_id).unwrap();
        call.count_in(org_id).unwrap();
        assert_eq!(call.held.lock().unwrap().len(), 2, "an organization counts a call once");
    }
}
