//! Custom domains of environments (PL-29). A domain belongs to one environment; several environments may have
//! domains with the same host name, of which at most one is VERIFIED.

pub mod proof;
pub mod wire;

use api::{check::Violation, error::Reason, project as pb};
use chassis::{
    Changed, Code, Error, EventTarget, OrgId, ProjectId, Refusal, Result, UserId, clock::Duration,
    foreign_text::clean_line, hostname, key,
};
use data_encoding::HEXLOWER;
use time::OffsetDateTime;

use self::proof::Proof;
use crate::{
    environment::Environment,
    types::{DomainId, EnvironmentId, ProjectRef},
};

/// Maximum number of domains of an environment.
pub const DOMAINS_MAX: usize = 100;

/// First labels of the name of a TXT record that proves a domain.
const TXT_PREFIX: &str = "_tenantry-challenge.";

/// Maximum length of a host name, in bytes: the name of its TXT record is longer.
const HOSTNAME_BYTES_MAX: usize = hostname::HOSTNAME_BYTES_MAX - TXT_PREFIX.len();

/// Number of random bytes in the value of a TXT record.
const TXT_BYTES: usize = 16;

/// Maximum length of a stored error, in bytes.
const ERROR_BYTES_MAX: usize = 1_000;

/// Time without a proof after which a VERIFIED domain becomes PENDING.
const GRACE_PERIOD: Duration = Duration::days(7);

/// State of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Without a proof; not served.
    Pending,
    /// With a proof; served by its environment.
    Verified,
}

chassis::text_column!(State { Pending = "pending", Verified = "verified" });

/// A custom domain of an environment.
#[derive(Clone, Debug)]
pub struct Domain {
    pub id: DomainId,
    pub org_id: OrgId,
    pub project_id: ProjectId,
    pub environment_id: EnvironmentId,
    /// Canonical host name.
    pub hostname: String,
    pub state: State,
    /// Value of the TXT record.
    pub txt_value: String,
    /// Proof that was found last.
    pub verified_by: Option<Proof>,
    pub verified_at: Option<OffsetDateTime>,
    pub checked_at: Option<OffsetDateTime>,
    /// Cause for which the last check found no proof; empty if it found one.
    pub check_error: String,
    /// Time of the first check of a VERIFIED domain that found no proof; `None` if the last conclusive one
    /// found one.
    pub missing_since: Option<OffsetDateTime>,
    pub creator_id: UserId,
    pub created_at: OffsetDateTime,
}

/// A domain whose names are not available as custom domains.
#[derive(Clone, Debug)]
pub struct ReservedDomain {
    pub name: String,
    /// Its owner, for people.
    pub owner: &'static str,
}

/// Refusals to verify a domain.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("no record proves {hostname}: {found}. Publish one, and verify again")]
    NotVerified { hostname: String, txt_value: String, found: String },
    #[error(
        "another environment serves {hostname}, and its proof is at least as strong; publish the TXT record \
         {TXT_PREFIX}{hostname} with the value {txt_value}, or remove the records that prove the domain for \
         the other environment, and verify again"
    )]
    Taken { hostname: String, txt_value: String },
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        Code::FailedPrecondition
    }

    fn reason(&self) -> Reason {
        match self {
            Self::NotVerified { .. } => Reason::DomainNotVerified,
            Self::Taken { .. } => Reason::DomainTaken,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        let (Self::NotVerified { hostname, txt_value, .. } | Self::Taken { hostname, txt_value }) =
            self;
        vec![
            ("hostname", hostname.clone()),
            ("txt_name", format!("{TXT_PREFIX}{hostname}")),
            ("txt_value", txt_value.clone()),
        ]
    }
}

/// A host name that is to be added to an environment.
pub struct Draft<'a> {
    pub environment: &'a Environment,
    /// As the caller wrote it.
    pub hostname: &'a str,
    pub creator_id: UserId,
}

impl Domain {
    /// Adds a domain to an environment, with a random value for its TXT record. Refuses with all violations
    /// at once. `existing`: host names of the domains of the environment.
    pub fn create(
        draft: &Draft<'_>,
        existing: &[String],
        reserved: &[ReservedDomain],
        now: OffsetDateTime,
    ) -> Result<Changed<Self>> {
        let mut violations = vec![];
        let mut violate = |field: &str, description: String| {
            violations.push(Violation { field: field.to_owned(), description });
        };
        let name = hostname::canonical(draft.hostname);
        match name.as_deref() {
            None => violate(
                "hostname",
                "must be a host name with at least two labels, without a wildcard, a port or an IP address"
                    .to_owned(),
            ),
            Some(name) if name.len() > HOSTNAME_BYTES_MAX => {
                violate("hostname", format!("must have at most {HOSTNAME_BYTES_MAX} bytes"));
            }
            Some(name) => {
                let is_reserved = |it: &&ReservedDomain| hostname::is_at_or_below(name, &it.name);
                for domain in reserved.iter().filter(is_reserved) {
                    let ReservedDomain { name, owner } = domain;
                    violate("hostname", format!("must not be {name} or below it: {owner}"));
                }
                if existing.iter().any(|it| it == name) {
                    violate("hostname", "must not be a domain of the environment already".to_owned());
                }
            }
        }
        if existing.len() >= DOMAINS_MAX {
            violate("environment_id", format!("must have fewer than {DOMAINS_MAX} domains"));
        }
        let Some(hostname) = name.filter(|_| violations.is_empty()) else {
            return Err(Error::Invalid(violations));
        };
        let environment = draft.environment;
        let domain = Self {
            id: DomainId::new(),
            org_id: environment.org_id,
            project_id: environment.project_id,
            environment_id: environment.id,
            hostname,
            state: State::Pending,
            txt_value: HEXLOWER.encode(&key::random()[..TXT_BYTES]),
            verified_by: None,
            verified_at: None,
            checked_at: None,
            check_error: String::new(),
            missing_since: None,
            creator_id: draft.creator_id,
            created_at: now,
        };
        let event = pb::DomainCreated { after: Some((&domain).into()) };
        let target = domain.event_target();
        Ok(Changed::new(domain, &event, target))
    }

    /// Records a proof that a check found. The state stays the same.
    pub fn record_proof(&mut self, proof: Proof, now: OffsetDateTime) {
        self.verified_by = Some(proof);
        self.checked_at = Some(now);
        self.check_error = String::new();
        self.missing_since = None;
    }

    /// Records a check that found no proof, or whose queries failed. The state stays the same.
    pub fn record_error(&mut self, error: &str, now: OffsetDateTime) {
        self.checked_at = Some(now);
        self.check_error = clean_line(error, ERROR_BYTES_MAX);
    }

    /// Records a check of a VERIFIED domain whose records are no proof any more. Returns true if that has
    /// been so for [`GRACE_PERIOD`].
    pub fn record_absence(&mut self, error: &str, now: OffsetDateTime) -> bool {
        self.record_error(error, now);
        let since = *self.missing_since.get_or_insert(now);
        self.state == State::Verified && now - since >= GRACE_PERIOD
    }

    /// Makes the domain VERIFIED. `Err` with the recorded proof: it is VERIFIED already.
    pub fn verify(mut self, proof: Proof, now: OffsetDateTime) -> Result<Changed<Self>, Box<Self>> {
        let before = Some((&self).into());
        self.record_proof(proof, now);
        if self.state == State::Verified {
            return Err(Box::new(self));
        }
        self.state = State::Verified;
        self.verified_at = Some(now);
        let event = pb::DomainVerified { before, after: Some((&self).into()) };
        let target = self.event_target();
        Ok(Changed::new(self, &event, target))
    }

    /// Makes a VERIFIED domain PENDING. `error`: the reason, for people.
    pub fn unverify(mut self, error: &str, now: OffsetDateTime) -> Changed<Self> {
        let before = Some((&self).into());
        self.record_error(error, now);
        self.state = State::Pending;
        self.missing_since = None;
        let event = pb::DomainUnverified { before, after: Some((&self).into()) };
        let target = self.event_target();
        Changed::new(self, &event, target)
    }

    /// Removes the domain.
    pub fn delete(self) -> Changed<Self> {
        let event = pb::DomainDeleted { before: Some((&self).into()) };
        let target = self.event_target();
        Changed::new(self, &event, target)
    }

    /// Refusal of a verification without a proof. `found`: the records that are there, for people.
    pub fn not_verified(&self, found: &str) -> Refused {
        Refused::NotVerified {
            hostname: self.hostname.clone(),
            txt_value: self.txt_value.clone(),
            found: clean_line(found, ERROR_BYTES_MAX),
        }
    }

    /// Refusal of a verification, because another environment keeps the host name.
    pub fn taken(&self) -> Refused {
        Refused::Taken { hostname: self.hostname.clone(), txt_value: self.txt_value.clone() }
    }

    /// Name of the TXT record that proves the domain.
    pub fn txt_name(&self) -> String {
        format!("{TXT_PREFIX}{}", self.hostname)
    }

    pub fn project_ref(&self) -> ProjectRef {
        ProjectRef { org_id: self.org_id, project_id: self.project_id }
    }

    fn event_target(&self) -> EventTarget {
        EventTarget::object("domain", self.id, &self.hostname)
            .in_org(self.org_id)
            .in_project(self.project_id)
            .in_environment(self.environment_id.0)
    }
}

#[cfg(test)]
mod tests;
