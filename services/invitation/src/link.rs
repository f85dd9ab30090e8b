//! The link of an invitation. Its secret follows from the deployment's key, so the same link can be sent
//! or copied again while only its hash is stored.

use chassis::{
    key::{Key, Secret},
    token::{Kind, Token},
};
use secrecy::ExposeSecret;
use uuid::Uuid;

/// Makes links.
#[derive(Clone)]
pub(crate) struct Links {
    key: Secret,
    base_url: String,
}

impl Links {
    pub(crate) fn new(key: &Key, base_url: &str) -> Self {
        let base_url = base_url.trim_end_matches('/').to_owned();
        Self { key: key.derive("invitation links"), base_url }
    }

    /// What is stored of the link of an invitation.
    pub(crate) fn hash(&self, id: Uuid) -> Vec<u8> {
        Token::derived(id, &self.key).hash()
    }

    /// The link, with its token in the fragment, which browsers do not send to servers. What it begins
    /// with is configuration; no request header has a say (N-08).
    pub(crate) fn link(&self, id: Uuid) -> String {
        let token = Token::derived(id, &self.key).reveal(Kind::Invitation);
        format!("{}/invitations#{}", self.base_url, token.expose_secret())
    }
}
