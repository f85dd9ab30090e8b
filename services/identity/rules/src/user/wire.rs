//! Conversions of accounts between the contract and the rules.

use api::{check::Violation, identity as pb};
use chassis::{Error, email, timestamp};

use super::{Draft, User};
use crate::password;

impl From<&User> for pb::User {
    fn from(user: &User) -> Self {
        Self {
            id: user.id.into(),
            email: user.email.0.clone(),
            display_name: user.display_name.clone(),
            email_verified: user.email_verified_at.is_some(),
            create_time: Some(timestamp(user.created_at)),
            totp_enabled: user.totp_enabled_at.is_some(),
            linked_issuers: user.issuers.clone(),
        }
    }
}

impl TryFrom<&pb::RegisterRequest> for Draft {
    type Error = Error;

    fn try_from(request: &pb::RegisterRequest) -> Result<Self, Error> {
        draft(&request.email, &request.password, &request.display_name)
    }
}

impl TryFrom<&pb::RegisterInvitedRequest> for Draft {
    type Error = Error;

    fn try_from(request: &pb::RegisterInvitedRequest) -> Result<Self, Error> {
        draft(&request.email, &request.password, &request.display_name)
    }
}

/// Returns the draft of a new account, or the violations of all its fields.
fn draft(email: &str, password: &str, display_name: &str) -> Result<Draft, Error> {
    let mut violations = vec![];
    let mut add_violation = |field: &str, description: &str| {
        violations.push(Violation { field: field.to_owned(), description: description.to_owned() });
    };
    let address = email::parse(email);
    if address.is_none() {
        add_violation("email", "must be a valid e-mail address");
    }
    if let Some(weakness) = password::weakness(password, email) {
        add_violation("password", weakness);
    }
    match address {
        Some(address) if violations.is_empty() => Ok(Draft::new(address, display_name.trim())),
        _ => Err(Error::Invalid(violations)),
    }
}
