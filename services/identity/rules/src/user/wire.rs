//! Conversions of accounts between the contract and the rules.

use api::{check::Violation, identity as pb};
use chassis::{Error, email, timestamp};

use super::{Draft, Registration, User};
use crate::password::NewPassword;

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

impl TryFrom<&pb::RegisterRequest> for Registration {
    type Error = Error;

    fn try_from(request: &pb::RegisterRequest) -> Result<Self, Error> {
        registration(&request.email, &request.password, &request.display_name)
    }
}

impl TryFrom<&pb::RegisterInvitedRequest> for Registration {
    type Error = Error;

    fn try_from(request: &pb::RegisterInvitedRequest) -> Result<Self, Error> {
        registration(&request.email, &request.password, &request.display_name)
    }
}

/// Returns a registration, or the violations of all its fields.
fn registration(email: &str, password: &str, display_name: &str) -> Result<Registration, Error> {
    let mut violations = vec![];
    let mut add_violation = |field: &str, description: &str| {
        violations.push(Violation { field: field.to_owned(), description: description.to_owned() });
    };
    let address = email::parse(email);
    if address.is_none() {
        add_violation("email", "must be a valid e-mail address");
    }
    let typed = address.as_ref().map_or(email, |it| it.typed.0.as_str());
    let password = NewPassword::new(password, typed);
    if let Err(weakness) = &password {
        add_violation("password", weakness);
    }
    match (address, password) {
        (Some(address), Ok(password)) => {
            let draft = Draft::new(address, display_name.trim());
            Ok(Registration { draft, password })
        }
        _ => Err(Error::Invalid(violations)),
    }
}
