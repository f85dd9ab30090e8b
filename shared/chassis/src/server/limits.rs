//! Concurrency limits: the resources that callers may use at the same time.
//!
//! | resource | from | until | limits |
//! |---|---|---|---|
//! | connection | accepted | closed | total, address |
//! | incoming body | headers received | body complete | total, address; the same for its bytes |
//! | permit of a call in flight | body complete | handler ended | total (`in_flight_max`) |
//! | open call (stream, long poll) | authenticated | ended | total, address, account, organization |
//!
//! Addresses are counted by network ([`network_of`]). A trusted proxy, which forwards the calls of many
//! clients, may use the whole total, and the loopback interface half of it.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use api::error::Reason;
use ipnet::IpNet;
use tokio::sync::Semaphore;
use tonic::{Code, Status};

use crate::{
    Config, Error, OrgId, Result, UserId,
    budget::{Budget, Exhausted, Reservation},
    error::overloaded,
    key::Secret,
    throttle::network_of,
};

/// Error text of a server with as many calls in flight as it accepts.
pub(super) const TOO_MANY_CALLS: &str =
    "the server is at its limit of calls in flight; retry with exponential back-off";

/// Incoming bodies.
const BODIES_MAX: usize = 16_384;
/// Incoming bodies of one address.
const BODIES_PER_ADDRESS_MAX: usize = 512;
/// Bytes of bodies, from their arrival to the end of the handler.
const BYTES_MAX: usize = 256 << 20;
/// Bytes of bodies of one address.
const BYTES_PER_ADDRESS_MAX: usize = 32 << 20;
/// Open calls of one credential without an account: the agent token of a server. A runner has two, and one
/// for each session of RunCommand.
const OPEN_CALLS_PER_CREDENTIAL_MAX: usize = 80;
/// Open calls to the health and reflection services.
const OPERATOR_CALLS_MAX: usize = 1_024;
/// Open calls to the health and reflection services from one address.
const OPERATOR_CALLS_PER_ADDRESS_MAX: usize = 64;

/// A holder of open calls, each with a limit of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// An account.
    Account(UserId),
    /// The SHA-256 digest of a credential without an account.
    Credential(Secret),
    /// The organization that the call is about.
    Organization(OrgId),
    /// The network of an address.
    Address(String),
}

/// The limits of a process.
pub struct Limits {
    /// Permits of the calls in flight.
    pub permits: Arc<Semaphore>,
    connections: Arc<Budget<String>>,
    bodies: Arc<Budget<String>>,
    bytes: Arc<Budget<String>>,
    operator_calls: Arc<Budget<String>>,
    open_calls: Arc<Semaphore>,
    holders: Arc<Budget<Holder>>,
    proxies: Vec<IpNet>,
    connections_max: usize,
    connections_per_address_max: usize,
    open_calls_max: usize,
    open_calls_per_address_max: usize,
    open_calls_per_account_max: usize,
    open_calls_per_org_max: usize,
}

/// Reservation of an incoming body and of its bytes.
pub struct IncomingBody {
    _body: Reservation<String>,
    bytes: Reservation<String>,
    bytes_max: usize,
}

/// Reservation of an open call: a stream or a long poll.
pub struct OpenCall {
    holders: Arc<Budget<Holder>>,
    per_org_max: usize,
    reservations: Mutex<Vec<(Holder, Reservation<Holder>)>>,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl Limits {
    /// Creates the limits from the settings.
    pub fn new(config: &Config) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(config.in_flight_max)),
            connections: Budget::new(config.connections_max),
            bodies: Budget::new(BODIES_MAX),
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

    /// Networks of trusted proxies (`x-forwarded-for`).
    pub fn proxies(&self) -> &[IpNet] {
        &self.proxies
    }

    /// Returns the part of `total` that an address may use.
    fn max_of_address(&self, total: usize, per_address: usize, address: &str) -> usize {
        match address.parse::<IpAddr>().map(|it| it.to_canonical()) {
            Ok(it) if self.proxies.iter().any(|network| network.contains(&it)) => total,
            Ok(it) if it.is_loopback() => (total / 2).max(1),
            // No address: a call of a service in this process.
            Err(_) if address.is_empty() => total,
            _ => per_address,
        }
    }

    /// Reserves a connection from an address.
    pub fn connection(&self, address: IpAddr) -> Result<Reservation<String>, Exhausted> {
        let address = address.to_canonical().to_string();
        let per_address = self.connections_per_address_max;
        let max = self.max_of_address(self.connections_max, per_address, &address);
        self.connections.reserve(network_of(&address), 1, max)
    }

    /// Reserves an incoming body from an address. Its bytes are reserved as they arrive.
    pub(super) fn incoming_body(&self, address: &str) -> Result<IncomingBody, Exhausted> {
        let max = self.max_of_address(BODIES_MAX, BODIES_PER_ADDRESS_MAX, address);
        let bytes_max = self.max_of_address(BYTES_MAX, BYTES_PER_ADDRESS_MAX, address);
        let network = network_of(address);
        let body = self.bodies.reserve(network.clone(), 1, max)?;
        let bytes = self.bytes.reserve(network, 0, bytes_max)?;
        Ok(IncomingBody { _body: body, bytes, bytes_max })
    }

    /// Reserves an open call to the health or reflection service.
    pub fn open_operator_call(&self, address: &str) -> Result<Reservation<String>, Status> {
        let per_address = OPERATOR_CALLS_PER_ADDRESS_MAX;
        let max = self.max_of_address(OPERATOR_CALLS_MAX, per_address, address);
        let reserved = self.operator_calls.reserve(network_of(address), 1, max);
        reserved.map_err(|it| refusal(it, "address"))
    }

    /// Reserves an open call for an account or credential and for an address, where there are any.
    pub(super) fn open_call(
        &self,
        holder: Option<Holder>,
        address: Option<&str>,
    ) -> Result<OpenCall> {
        let Ok(permit) = self.open_calls.clone().try_acquire_owned() else {
            return Err(Error::Remote(Box::new(overloaded(TOO_MANY_CALLS))));
        };
        let call = OpenCall {
            holders: self.holders.clone(),
            per_org_max: self.open_calls_per_org_max,
            reservations: Mutex::default(),
            _permit: permit,
        };
        if let Some(address) = address {
            let per_address = self.open_calls_per_address_max;
            let max = self.max_of_address(self.open_calls_max, per_address, address);
            call.reserve(Holder::Address(network_of(address)), max)?;
        }
        if let Some(holder) = holder {
            let max = match holder {
                Holder::Account(_) => self.open_calls_per_account_max,
                _ => OPEN_CALLS_PER_CREDENTIAL_MAX,
            };
            call.reserve(holder, max)?;
        }
        Ok(call)
    }
}

impl IncomingBody {
    /// Reserves more bytes.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Exhausted> {
        self.bytes.grow(bytes, self.bytes_max)
    }

    /// Ends the reservation of the body and returns that of its bytes.
    pub(super) fn complete(self) -> Reservation<String> {
        self.bytes
    }
}

impl OpenCall {
    /// Reserves the call for its organization, too, if that is not done yet.
    pub fn count_in(&self, org_id: OrgId) -> Result<()> {
        self.reserve(Holder::Organization(org_id), self.per_org_max)
    }

    fn reserve(&self, holder: Holder, max: usize) -> Result<()> {
        let mut reservations = self.reservations.lock().unwrap_or_else(PoisonError::into_inner);
        if reservations.iter().any(|it| it.0 == holder) {
            return Ok(());
        }
        match self.holders.reserve(holder.clone(), 1, max) {
            Ok(reservation) => reservations.push((holder, reservation)),
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
                "this {noun} has {max} open streams or long polls, which is the limit; close some, then retry"
            ),
            metadata: vec![("holder", noun.to_owned()), ("limit", max.to_string())],
        }
    }
}

/// Returns the status for a call that exceeds a limit; `noun` names the holder of the limit.
pub fn refusal(exhausted: Exhausted, noun: &'static str) -> Status {
    match exhausted {
        Exhausted::Total => overloaded(TOO_MANY_CALLS),
        Exhausted::Holder => Error::Refused {
            code: Code::ResourceExhausted,
            reason: Reason::OpenCallLimit,
            message: format!(
                "this {noun} has too many requests in progress; complete some, then retry"
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
        let further = ["--trusted-proxies=10.0.0.1", "--open-calls-per-account-max=2"];
        Limits::new(&Arguments::parse_from(arguments.into_iter().chain(further)).config)
    }

    #[test]
    fn proxies_and_loopback_may_open_more_connections_than_other_addresses() {
        let limits = limits();
        let connections_of = |address: &str| {
            let mut reservations = vec![];
            while let Ok(reservation) = limits.connection(address.parse().unwrap()) {
                reservations.push(reservation);
            }
            reservations.len()
        };
        assert_eq!(connections_of("192.0.2.7"), 3);
        assert_eq!(connections_of("2001:db8::1"), 3);
        assert_eq!(connections_of("127.0.0.1"), 50, "half of the total");
        assert_eq!(connections_of("::1"), 50, "half of the total");
        assert_eq!(connections_of("::ffff:10.0.0.1"), 100, "a proxy may use the total");
    }

    #[test]
    fn the_addresses_of_one_network_share_a_limit() {
        let limits = limits();
        let connect = |address: &str| limits.connection(address.parse().unwrap());
        let open: Vec<_> = (0..3).map(|it| connect(&format!("2001:db8::{it}"))).collect();
        assert!(open.iter().all(Result::is_ok));
        assert_eq!(connect("2001:db8::ffff").err(), Some(Exhausted::Holder));
    }

    #[test]
    fn a_refused_open_call_releases_its_reservations() {
        let limits = limits();
        let account = || Some(Holder::Account(UserId(uuid::Uuid::from_u128(1))));
        let open = |holder| limits.open_call(holder, Some("192.0.2.7"));
        let one = open(account()).unwrap();
        let two = open(account()).unwrap();
        assert_eq!(open(account()).unwrap_err().reason(), Reason::OpenCallLimit);
        drop(one);
        drop(open(account()).unwrap());
        drop(two);
        assert_eq!(limits.open_calls.available_permits(), limits.open_calls_max);
        let org_id = OrgId(uuid::Uuid::from_u128(2));
        let call = open(None).unwrap();
        call.count_in(org_id).unwrap();
        call.count_in(org_id).unwrap();
        assert_eq!(
            call.reservations.lock().unwrap().len(),
            2,
            "one for the address, one for the organization"
        );
    }
}
