//! Credentials that people and programs hold: `tny_<kind>_<id><secret><checksum>`.
//!
//! The id is public and finds the row, the secret proves possession, the checksum keeps typing errors
//! away from the database. Only a SHA-256 of the secret is ever stored.

use data_encoding::{BASE32_NOPAD, Encoding};
use secrecy::{ExposeSecret, SecretString};
use std::sync::LazyLock;
use uuid::Uuid;

use crate::key::{self, Secret};

/// Lower-case base32: survives case-folding mailers and a double click selects all of it.
static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = BASE32_NOPAD.specification();
    specification.symbols.make_ascii_lowercase();
    specification.encoding().expect("base32 in lower case")
});

const ID_LEN: usize = 26;
const SECRET_LEN: usize = 52;
const CHECKSUM_LEN: usize = 7;

/// What a token is for. A token of one kind is never accepted as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A session.
    Session,
    /// An invitation's link.
    Invitation,
    /// A link that confirms an e-mail address.
    Verification,
    /// A link that sets a new password.
    Reset,
    /// A sign-in that waits for its second factor.
    Challenge,
    /// An API key.
    ApiKey,
    /// A sign-in on its way through an identity provider.
    External,
    /// The runner of a connected server.
    Agent,
}

impl Kind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Session => "tny_ses_",
            Self::Invitation => "tny_inv_",
            Self::Verification => "tny_ver_",
            Self::Reset => "tny_rst_",
            Self::Challenge => "tny_mfa_",
            Self::ApiKey => "tny_key_",
            Self::External => "tny_ext_",
            Self::Agent => "tny_agt_",
        }
    }
}

/// A token taken apart.
#[derive(Clone)]
pub struct Token {
    /// Finds the row.
    pub id: Uuid,
    secret: Secret,
}

impl Token {
    /// A token with a random secret.
    pub fn random(id: Uuid) -> Self {
        Self { id, secret: key::random() }
    }

    /// A token whose secret follows from a key and its id, so that the same link can be sent again while
    /// only its hash is stored.
    pub fn derived(id: Uuid, key: &Secret) -> Self {
        Self { id, secret: key::mac(key, &[id.as_bytes()]) }
    }

    /// Takes a token apart, if it is one of this kind.
    pub fn parse(kind: Kind, text: &str) -> Option<Self> {
        let body = text.strip_prefix(kind.prefix())?;
        if body.len() != ID_LEN + SECRET_LEN + CHECKSUM_LEN || !body.is_ascii() {
            return None;
        }
        let (payload, sum) = text.split_at(text.len() - CHECKSUM_LEN);
        if checksum(payload) != sum {
            return None;
        }
        let (id, secret) = body[..ID_LEN + SECRET_LEN].split_at(ID_LEN);
        let id = BASE32.decode(id.as_bytes()).ok()?.try_into().ok()?;
        let secret = BASE32.decode(secret.as_bytes()).ok()?.try_into().ok()?;
        Some(Self { id: Uuid::from_bytes(id), secret })
    }

    /// How a token begins, to recognize it by; useless without its secret.
    pub fn hint(kind: Kind, id: Uuid) -> String {
        format!("{}{}", kind.prefix(), &BASE32.encode(id.as_bytes())[..16])
    }

    /// What is stored of it.
    pub fn hash(&self) -> Vec<u8> {
        key::hash(&self.secret).to_vec()
    }

    /// Whether the stored hash is of this token, in constant time.
    pub fn matches(&self, hash: &[u8]) -> bool {
        key::equal(&key::hash(&self.secret), hash)
    }

    /// The whole token, to be handed out once.
    pub fn reveal(&self, kind: Kind) -> SecretString {
        let id = BASE32.encode(self.id.as_bytes());
        let mut text = format!("{}{id}{}", kind.prefix(), BASE32.encode(&self.secret));
        text += &checksum(&text);
        text.into()
    }
}

/// Whether a credential says that it is an API key.
pub(crate) fn is_key(bearer: &SecretString) -> bool {
    bearer.expose_secret().starts_with(Kind::ApiKey.prefix())
}

/// Whether a credential says that it is a server's agent token.
pub(crate) fn is_agent(bearer: &SecretString) -> bool {
    bearer.expose_secret().starts_with(Kind::Agent.prefix())
}

fn checksum(text: &str) -> String {
    BASE32.encode(&crc32fast::hash(text.as_bytes()).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_and_nothing_else_does() {
        let token = Token::random(Uuid::from_u128(7));
        let text = token.reveal(Kind::Session);
        let text = text.expose_secret();

        let parsed = Token::parse(Kind::Session, text).unwrap();
        assert_eq!(parsed.id, token.id);
        assert!(parsed.matches(&token.hash()));
        assert!(Token::parse(Kind::Invitation, text).is_none());
        for i in 0..text.len() {
            let mut changed = text.to_owned().into_bytes();
            changed[i] = if changed[i] == b'a' { b'b' } else { b'a' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(Token::parse(Kind::Session, &changed).is_none(), "{changed}");
        }
    }
}
