//! Links of invitations. Their secrets are derived from the deployment's key, so that the same link can be
//! mailed or copied again although only hashes are stored.

use chassis::{
    key::{self, DerivedKeys, Key, Secret},
    token::{Kind, Token},
};
use secrecy::ExposeSecret;
use uuid::Uuid;

use super::Invitation;

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
    mailed_keys: DerivedKeys,
    copied_keys: DerivedKeys,
    base_url: String,
}

impl Links {
    /// Derives the keys of links. The base URL comes from the configuration, never from a request (N-08).
    pub(crate) fn new(key: &Key, base_url: String) -> Self {
        Self {
            mailed_keys: key.derive("invitation links"),
            copied_keys: key.derive("copied invitation links"),
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
        token(invitation_id, generation, &self.keys(kind).current()).hash()
    }

    /// URL of a link. The token is in the path, because the page has no script that could read a fragment.
    /// The page is not cached, and sends no referrer (N-09).
    pub(crate) fn url(&self, invitation: &Invitation, kind: LinkKind) -> String {
        let token = self.token(invitation, kind).reveal(Kind::Invitation);
        format!("{}/invitations/{}", self.base_url, token.expose_secret())
    }

    /// Returns the token whose hash the invitation has, also if a previous key has made it.
    fn token(&self, invitation: &Invitation, kind: LinkKind) -> Token {
        let hash = match kind {
            LinkKind::Mailed => &invitation.secret_hash,
            LinkKind::Copied => &invitation.copied_hash,
        };
        let of = |secret: Secret| token(invitation.id.0, invitation.link_generation, &secret);
        let keys = self.keys(kind);
        let found = keys.secrets().map(of).find(|it| it.matches(hash));
        found.unwrap_or_else(|| of(keys.current()))
    }

    fn keys(&self, kind: LinkKind) -> &DerivedKeys {
        match kind {
            LinkKind::Mailed => &self.mailed_keys,
            LinkKind::Copied => &self.copied_keys,
        }
    }
}

fn token(invitation_id: Uuid, generation: i32, secret: &Secret) -> Token {
    if generation == 0 {
        return Token::derived(invitation_id, secret);
    }
    Token::derived(invitation_id, &key::mac(secret, &[&generation.to_be_bytes()]))
}
