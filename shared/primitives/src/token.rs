//! Credentials (tokens) of people and programs: `tny_<kind>_<id><secret><checksum>` in lower-case base32.
//!
//! The id (128 bits) is public and is the key of the row; the secret (256 bits) proves possession; the
//! checksum (CRC-32) finds typing errors without a database query. Only a SHA-256 digest of the secret is
//! stored.

use data_encoding::{BASE32_NOPAD, Encoding};
use secrecy::{ExposeSecret, SecretString};
use std::sync::LazyLock;
use uuid::Uuid;

use crate::key::{self, Secret};

/// Base32 in lower case, which mail programs that change letters to lower case do not modify, and a double
/// click selects completely.
static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = BASE32_NOPAD.specification();
    specification.symbols.make_ascii_lowercase();
    specification.encoding().expect("base32 in lower case")
});

/// Lengths in characters of base32 (5 bits each).
const ID_LEN: usize = 26;
const SECRET_LEN: usize = 52;
const CHECKSUM_LEN: usize = 7;

/// The purpose of a token. A token of one kind is not accepted as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A session.
    Session,
    /// The link of an invitation.
    Invitation,
    /// A link that confirms an e-mail address.
    Verification,
    /// A link that sets a new password.
    Reset,
    /// A sign-in that needs its second factor.
    Challenge,
    /// An API key.
    ApiKey,
    /// A sign-in at an external identity provider (the OpenID Connect `state`).
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

/// A parsed token.
#[derive(Clone)]
pub struct Token {
    /// Id of the row that stores the token's hash.
    pub id: Uuid,
    secret: Secret,
}

impl Token {
    /// Makes a token with a random secret.
    pub fn random(id: Uuid) -> Self {
        Self { id, secret: key::random() }
    }

    /// Makes a token whose secret is derived from a key and its id, so that the same link can be sent again
    /// although only its hash is stored.
    pub fn derived(id: Uuid, key: &Secret) -> Self {
        Self { id, secret: key::mac(key, &[id.as_bytes()]) }
    }

    /// Parses a token; `None` if it is malformed or of another kind.
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

    /// Returns the first characters of a token, by which people recognize it in a list. They contain a part
    /// of the id and nothing of the secret.
    pub fn hint(kind: Kind, id: Uuid) -> String {
        format!("{}{}", kind.prefix(), &BASE32.encode(id.as_bytes())[..16])
    }

    /// Returns the SHA-256 digest of the secret, which is stored.
    pub fn hash(&self) -> Vec<u8> {
        key::hash(&self.secret).to_vec()
    }

    /// True if the stored hash belongs to this token. Takes constant time.
    pub fn matches(&self, hash: &[u8]) -> bool {
        key::equal(&key::hash(&self.secret), hash)
    }

    /// Returns the text of the token, which is shown to its owner once.
    pub fn reveal(&self, kind: Kind) -> SecretString {
        let id = BASE32.encode(self.id.as_bytes());
        let mut text = format!("{}{id}{}", kind.prefix(), BASE32.encode(&self.secret));
        text += &checksum(&text);
        text.into()
    }
}

/// True if a credential has the prefix of an API key; its validity is not checked.
pub fn is_api_key(bearer: &SecretString) -> bool {
    bearer.expose_secret().starts_with(Kind::ApiKey.prefix())
}

/// True if a credential has the prefix of an agent token; its validity is not checked.
pub fn is_agent_token(bearer: &SecretString) -> bool {
    bearer.expose_secret().starts_with(Kind::Agent.prefix())
}

fn checksum(text: &str) -> String {
    BASE32.encode(&crc32fast::hash(text.as_bytes()).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_parses_from_its_own_text_only() {
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
