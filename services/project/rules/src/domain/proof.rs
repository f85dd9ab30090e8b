//! Proofs of domains: DNS records that only the owner of a domain can publish, or that lead to the
//! environment.

use std::net::IpAddr;

use super::Domain;

/// A proof, weakest first. Only the TXT record names one domain of one environment. The addresses of a
/// connected server are what its organization says, so they prove the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proof {
    Address,
    Cname,
    Txt,
}

chassis::text_column!(Proof { Address = "address", Cname = "cname", Txt = "txt" });

/// Names and addresses to which the records of a domain can lead.
#[derive(Clone, Debug, Default)]
pub struct ProofTargets {
    /// Host name of the environment; empty if it has none.
    pub cname_target: String,
    /// Address or name of a connected server; empty for a shared server, and before there is a server.
    pub server_address: String,
}

impl ProofTargets {
    /// Target of a CNAME record that is a proof. `None` on a connected server: its organization chooses the
    /// apps domain freely, so that the target could be a host name of somebody else.
    pub fn proving_cname(&self) -> Option<&str> {
        let is_proof = self.server_address.is_empty() && !self.cname_target.is_empty();
        is_proof.then_some(self.cname_target.as_str())
    }

    /// Server whose addresses are a proof. `None` on a shared server: every tenant has its addresses.
    pub fn proving_server(&self) -> Option<&str> {
        Some(self.server_address.as_str()).filter(|it| !it.is_empty())
    }
}

/// Records of a name, empty if there are none; or the error of the query.
pub type Lookup<T> = Result<Vec<T>, String>;

/// Answers to the queries of a check.
#[derive(Debug)]
pub struct Answers {
    /// Values of the TXT records.
    pub texts: Lookup<String>,
    /// Targets of the CNAME record and of those that follow, in order.
    pub cnames: Lookup<String>,
    /// Addresses of the domain.
    pub addresses: Lookup<IpAddr>,
    /// Addresses of the connected server.
    pub server_addresses: Lookup<IpAddr>,
}

/// Result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The strongest proof that is there.
    Proven(Proof),
    /// No record is a proof; with the records that are there, for people.
    Absent(String),
    /// No proof was found, and a query failed; with its error, for people.
    Unknown(String),
}

impl Answers {
    /// Returns the strongest proof of a domain in the answers.
    pub fn finding(&self, domain: &Domain, targets: &ProofTargets) -> Finding {
        if self.texts.iter().flatten().any(|it| *it == domain.txt_value) {
            return Finding::Proven(Proof::Txt);
        }
        let name = &domain.hostname;
        let mut words = vec![self.texts.clone().map(|it| describe_texts(&domain.txt_name(), &it))];
        if let Some(target) = targets.proving_cname() {
            if self.cnames.iter().flatten().any(|it| it == target) {
                return Finding::Proven(Proof::Cname);
            }
            let describe = |it: Vec<String>| match it.last() {
                None => format!("{name} has no CNAME record"),
                Some(last) => format!("{name} leads to {last}, not to {target}"),
            };
            words.push(self.cnames.clone().map(describe));
        }
        if targets.proving_server().is_some() {
            match (&self.addresses, &self.server_addresses) {
                (Ok(own), Ok(server)) if is_subset(own, server) => {
                    return Finding::Proven(Proof::Address);
                }
                (Ok(own), Ok(server)) if !own.is_empty() => words.push(Ok(format!(
                    "{name} has the addresses {}, the server has {}",
                    join(own),
                    join(server)
                ))),
                (Ok(_), Ok(_)) => words.push(Ok(format!("{name} has no address"))),
                (Err(error), _) | (_, Err(error)) => words.push(Err(error.clone())),
            }
        }
        let has_failure = words.iter().any(Result::is_err);
        let words: Vec<_> = words.into_iter().map(|it| it.unwrap_or_else(|error| error)).collect();
        let words = words.join("; ");
        if has_failure { Finding::Unknown(words) } else { Finding::Absent(words) }
    }
}

fn describe_texts(name: &str, texts: &[String]) -> String {
    if texts.is_empty() {
        return format!("{name} has no TXT record");
    }
    let texts: Vec<_> = texts.iter().take(3).map(|it| format!("\"{it}\"")).collect();
    format!("{name} has other TXT records: {}", texts.join(", "))
}

/// True if a domain has addresses, and all of them are addresses of the server.
fn is_subset(own: &[IpAddr], server: &[IpAddr]) -> bool {
    !own.is_empty() && own.iter().all(|it| server.contains(it))
}

fn join(addresses: &[IpAddr]) -> String {
    if addresses.is_empty() {
        return "none".to_owned();
    }
    addresses.iter().take(4).map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
