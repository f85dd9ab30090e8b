//! DNS queries for the proofs of domains. Queries are remote calls, so they run outside of transactions.

use std::{net::IpAddr, time::Duration};

use chassis::assert_no_transaction;
use host::resolver::Resolver;
use project_rules::domain::{
    Domain,
    proof::{Answers, Finding, Lookup, ProofTargets},
};
use tokio::sync::Semaphore;

/// Time limit of a check, with the time in which it waits for others.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Maximum number of checks at the same time.
const CONCURRENT_MAX: usize = 8;

/// Maximum number of CNAME records that are followed.
const CNAMES_MAX: usize = 8;

/// Looks up the proofs of domains.
pub(crate) struct DomainChecker {
    resolver: Resolver,
    slots: Semaphore,
}

impl DomainChecker {
    pub(crate) fn new(resolver: Resolver) -> Self {
        Self { resolver, slots: Semaphore::new(CONCURRENT_MAX) }
    }

    /// Returns the strongest proof of a domain.
    pub(crate) async fn check(&self, domain: &Domain, targets: &ProofTargets) -> Finding {
        assert_no_transaction();
        let check = async {
            let _slot = self.slots.acquire().await;
            self.answers(domain, targets).await.finding(domain, targets)
        };
        let late = |_| Finding::Unknown(format!("no answer within {} seconds", TIMEOUT.as_secs()));
        tokio::time::timeout(TIMEOUT, Box::pin(check)).await.unwrap_or_else(late)
    }

    /// Makes the queries whose answers can be a proof.
    async fn answers(&self, domain: &Domain, targets: &ProofTargets) -> Answers {
        let txt_name = domain.txt_name();
        let texts = self.resolver.texts(&txt_name);
        let cnames = async {
            match targets.proving_cname() {
                Some(target) => self.cnames(&domain.hostname, target).await,
                None => Ok(vec![]),
            }
        };
        let addresses = async {
            match targets.proving_server() {
                Some(_) => self.resolver.host_addresses(&domain.hostname).await,
                None => Ok(vec![]),
            }
        };
        let server_addresses = async {
            match targets.proving_server() {
                Some(server) => self.server_addresses(server).await,
                None => Ok(vec![]),
            }
        };
        let (texts, cnames, addresses, server_addresses) =
            tokio::join!(texts, cnames, addresses, server_addresses);
        Answers { texts, cnames, addresses, server_addresses }
    }

    /// Follows CNAME records up to a target, or to the end.
    async fn cnames(&self, name: &str, target: &str) -> Lookup<String> {
        let mut followed: Vec<String> = vec![];
        while followed.len() < CNAMES_MAX && followed.last().is_none_or(|it| it != target) {
            let current = followed.last().map_or(name, String::as_str);
            let Some(next) = self.resolver.cname(current).await? else { break };
            followed.push(next);
        }
        Ok(followed)
    }

    async fn server_addresses(&self, server: &str) -> Lookup<IpAddr> {
        match server.parse() {
            Ok(address) => Ok(vec![address]),
            Err(_) => self.resolver.host_addresses(server).await,
        }
    }
}
