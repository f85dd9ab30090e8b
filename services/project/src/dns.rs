//! Records on the DNS servers of organizations: publication and removal by RFC 2136, PowerDNS and Cloudflare.

pub(crate) mod challenge;
mod cloudflare;
pub(crate) mod dns_client;
mod http;
mod powerdns;
pub(crate) mod publisher;
mod rfc2136;
mod tsig;
