//! Links of invitations. Their secrets are derived from the deployment's key, so that the same link can be
//! mailed or copied again although only hashes are stored.

use chassis::{
    key::{self, Key, Secret},
    token::{Kind, Token},
};
use secrecy::ExposeSecret;
use uuid::Uuid;

/// Way in which a link reaches a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkKind {
    /// Sent by mail: whoever opens the link can read the mailbox.
    Mailed,
    /// Copied by a manager: does not prove access to the mailbox. If the mailed link were shown to managers,
    /// they could create accounts with confirmed addresses of other people.
    Copied,
}

/// Links of invitations.
#[derive(Clone)]
pub(crate) struct Links {
    mailed_key: Secret,
    copied_key: Secret,
    base_url: String,
}

impl Links {
    /// Derives the keys of links. The base URL comes from the configuration, never from a request (N-08).
    pub(crate) fn new(key: &Key, base_url: String) -> Self {
        Self {
            mailed_key: key.derive("invitation links"),
            copied_key: key.derive("copied invitation links"),
            base_url,
        }
    }

    /// Hash of the secret in a link, to be stored. `generation` counts the renewals of the invitation.
    pub(crate) fn secret_hash(
        &self,
        invitation_id: Uuid,
        generation: i32,
        kind: LinkKind,
    ) -> Vec<u8> {
        self.token(invitation_id, generation, kind).hash()
    }

    /// URL of a link. The token is in the path, because the page has no script that could read a fragment.
    /// The page is not cached, and sends no referrer (N-09).
    pub(crate) fn url(&self, invitation_id: Uuid, generation: i32, kind: LinkKind) -> String {
        let token = self.token(invitation_id, generation, kind).reveal(Kind::Invitation);
        format!("{}/invitations/{}", self.base_url, token.expose_secret())
    }

    fn token(&self, invitation_id: Uuid, generation: i32, kind: LinkKind) -> Token {
        let key = match kind {
            LinkKind::Mailed => &self.mailed_key,
            LinkKind::Copied => &self.copied_key,
        };
        if generation == 0 {
            return Token::derived(invitation_id, key);
        }
        Token::derived(invitation_id, &key::mac(key, &[&generation.to_be_bytes()]))
    }
}
