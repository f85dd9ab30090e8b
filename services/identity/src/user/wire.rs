//! Between the contract and the rules.

use api::{check::Violation, identity as pb};
use chassis::{Error, email, timestamp};

use super::{Draft, User};
use crate::password;

impl From<&User> for pb::User {
    fn from(it: &User) -> Self {
        Self {
            id: it.id.into(),
            email: it.email.0.clone(),
            display_name: it.display_name.clone(),
            email_verified: it.email_verified_at.is_some(),
            create_time: Some(timestamp(it.created_at)),
            totp_enabled: it.totp_enabled_at.is_some(),
            linked_issuers: it.issuers.clone(),
        }
    }
}

impl Draft {
    /// What a new account takes; every field that is wrong is told.
    pub(super) fn new(email: &str, password: &str, display_name: &str) -> Result<Self, Error> {
        let mut violations = vec![];
        let mut wrong = |field: &str, description: &str| {
            violations
                .push(Violation { field: field.to_owned(), description: description.to_owned() });
        };
        let address = email::parse(email);
        if address.is_none() {
            wrong("email", "must be an e-mail address");
        }
        if let Some(weakness) = password::weakness(password, email) {
            wrong("password", weakness);
        }
        match address {
            Some(address) if violations.is_empty() => {
                let name = display_name.trim();
                let local = address.typed.0.split('@').next().unwrap_or_default();
                let display_name = if name.is_empty() { local } else { name }.to_owned();
                Ok(Self { address, display_name })
            }
            _ => Err(Error::Invalid(violations)),
        }
    }
}
