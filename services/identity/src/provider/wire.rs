//! Conversions of sign-ins with the identity provider to the contract.

use api::identity as pb;

use super::commands::StartedLogin;

impl From<StartedLogin> for pb::StartExternalLoginResponse {
    fn from(started: StartedLogin) -> Self {
        Self { authorization_url: started.authorization_url, state: started.state }
    }
}
